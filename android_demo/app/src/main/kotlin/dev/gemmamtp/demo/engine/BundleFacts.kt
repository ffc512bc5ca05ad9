package dev.gemmamtp.demo.engine

import com.google.ai.edge.litertlm.LiteRtLmJniException
import com.google.ai.edge.litertlm.ModelInfo
import java.io.File

private const val USUAL_CONTEXT = 4096

/**
 * What a bundle says of itself, read without loading its weights.
 *
 * @property drafts whether it holds a drafter, so that MTP can be offered
 * @property longestContext the most that can be chosen for prompt and answer together, in tokens; 0 if it does not say
 */
data class BundleFacts(val file: File, val drafts: Boolean, val longestContext: Int) {
    /** The context to load it with: as [asked] as far as it reaches, or a modest one, since caches grow with it. */
    fun contextFor(asked: Int?): Int = (asked ?: USUAL_CONTEXT).let { if (longestContext > 0) minOf(it, longestContext) else it }

    companion object {
        /** Read [file]; throws [Problem.Unreadable], or [Problem.TooNew] where it asks for more than [runtime]. */
        fun read(file: File, runtime: String): BundleFacts =
            try {
                ModelInfo(file.absolutePath).use { info ->
                    val needed = info.minRuntimeVersion()
                    if (needed != null && isNewer(needed, runtime)) throw Problem.TooNew(needed, runtime)
                    BundleFacts(
                        file = file,
                        drafts = info.llm?.hasSpeculativeDecodingSupport() ?: false,
                        longestContext = info.maxContextTokens(),
                    )
                }
            } catch (error: LiteRtLmJniException) {
                throw Problem.Unreadable(file.name, error.reason())
            }
    }
}
