package dev.gemmamtp.demo.bench

import com.google.ai.edge.litertlm.ExperimentalApi
import com.google.ai.edge.litertlm.LiteRtLmJniException
import dev.gemmamtp.demo.engine.LoadedBundle
import dev.gemmamtp.demo.engine.Problem
import dev.gemmamtp.demo.engine.answer
import dev.gemmamtp.demo.engine.reason
import dev.gemmamtp.demo.engine.usedMiB

private const val WARM_UP_PROMPT = "Hello"
private const val WARM_UP_TOKENS = 8

/**
 * One answer; times in seconds, [firstToken] from sending on. [tokens] and [tokensPerSecond], of decoding, are the engine's:
 * from outside it is not seen how many tokens the first piece of text has. [cut] where the budget or the context's end ended
 * it, and no stop token.
 */
data class Measurement(
    val text: String,
    val tokens: Int,
    val tokensPerSecond: Double,
    val cut: Boolean,
    val firstToken: Double,
    val seconds: Double,
    val memoryMiB: Long,
)

/** One prompt with MTP off and on. */
data class Comparison(val prompt: String, val off: Measurement, val on: Measurement) {
    val ratio: Double
        get() = if (off.tokensPerSecond > 0) on.tokensPerSecond / off.tokensPerSecond else 0.0

    /** As far as both go: with MTP the engine counts in rounds, so an answer that was cut may be longer. */
    val equal: Boolean
        get() {
            if (off.text == on.text) return true
            val (shorter, longer) = if (off.text.length < on.text.length) off to on else on to off
            return longer.text.startsWith(shorter.text) && shorter.cut
        }
}

/**
 * Once through all that answers need, so that none of them pays for the first touch of the weights. What a GPU lacks shows
 * here at the latest: an engine can be made without its driver. Throws [Problem.NoGpu] or [Problem.AnswerFailed].
 */
suspend fun warmUp(bundle: LoadedBundle) {
    try {
        measure(bundle, WARM_UP_PROMPT, WARM_UP_TOKENS, mtp = false)
        if (bundle.settings.mtp) measure(bundle, WARM_UP_PROMPT, WARM_UP_TOKENS, mtp = true)
    } catch (problem: Problem.AnswerFailed) {
        throw if (bundle.settings.gpu) Problem.NoGpu(problem.detail) else problem
    }
}

/** Both ways in turn, in conversations of their own; [mtpFirst] alternates over a run so that both share the heat. */
suspend fun compare(bundle: LoadedBundle, prompt: String, maxTokens: Int, mtpFirst: Boolean): Comparison {
    val first = measure(bundle, prompt, maxTokens, mtp = mtpFirst)
    val second = measure(bundle, prompt, maxTokens, mtp = !mtpFirst)
    return if (mtpFirst) Comparison(prompt, second, first) else Comparison(prompt, first, second)
}

/** Answer [prompt] once; throws [Problem.AnswerFailed]. */
@OptIn(ExperimentalApi::class)
suspend fun measure(bundle: LoadedBundle, prompt: String, maxTokens: Int, mtp: Boolean): Measurement =
    try {
        bundle.converse(mtp, maxTokens).use { conversation ->
            val text = StringBuilder()
            var first = 0L
            val begun = System.nanoTime()
            conversation.answer(prompt).collect { piece ->
                if (first == 0L) first = System.nanoTime()
                text.append(piece)
            }
            val ended = System.nanoTime()
            val counted = conversation.getBenchmarkInfo()
            val tokens = counted.lastDecodeTokenCount
            val context = bundle.settings.context
            Measurement(
                text = text.toString(),
                tokens = tokens,
                tokensPerSecond = counted.lastDecodeTokensPerSecond,
                cut = tokens >= maxTokens || (context != null && conversation.getTokenCount() >= context),
                firstToken = if (first == 0L) 0.0 else (first - begun) / 1e9,
                seconds = (ended - begun) / 1e9,
                memoryMiB = usedMiB(),
            )
        }
    } catch (error: LiteRtLmJniException) {
        throw Problem.AnswerFailed(error.reason())
    }
