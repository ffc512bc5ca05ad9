package dev.gemmamtp.demo.engine

import com.google.ai.edge.litertlm.LiteRtLmJniException
import com.google.ai.edge.litertlm.ModelInfo
import java.io.File

private const val USUAL_CONTEXT = 4096

/**
 * What a bundle says of itself, read without loading its weights.
 *
 * @property drafts whether it holds a drafter, so that MTP can be offered
 * @property statedContext what it asks for, prompt and answer together, in tokens; 0 if it does not say
 */
data class BundleFacts(val file: File, val drafts: Boolean, val statedContext: Int) {
    /**
     * What to load it with where nobody chooses: no more than a modest one, since caches grow with it. Another may be asked
     * for, also a longer one than is stated: the engine takes as much of it as the bundle's caches can have.
     */
    val usualContext: Int
        get() = if (statedContext > 0) minOf(statedContext, USUAL_CONTEXT) else USUAL_CONTEXT

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
                        statedContext = info.maxContextTokens(),
                    )
                }
            } catch (error: LiteRtLmJniException) {
                throw Problem.Unreadable(file.name, error.reason())
            }
    }
}
