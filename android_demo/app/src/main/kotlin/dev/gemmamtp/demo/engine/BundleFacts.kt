package dev.gemmamtp.demo.engine

import com.google.ai.edge.litertlm.LiteRtLmJniException
import com.google.ai.edge.litertlm.ModelInfo
import java.io.File

/**
 * What a bundle says of itself, read without loading its weights.
 *
 * @property drafts whether it holds a drafter, so that MTP can be offered
 * @property maxContext tokens of prompt and answer together, 0 if it does not say
 */
data class BundleFacts(val file: File, val drafts: Boolean, val maxContext: Int) {
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
                        maxContext = info.maxContextTokens(),
                    )
                }
            } catch (error: LiteRtLmJniException) {
                throw Problem.Unreadable(file.name, error.reason())
            }
    }
}
