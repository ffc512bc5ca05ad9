package dev.gemmamtp.demo.engine

import com.google.ai.edge.litertlm.Backend
import com.google.ai.edge.litertlm.Conversation
import com.google.ai.edge.litertlm.ConversationConfig
import com.google.ai.edge.litertlm.Engine
import com.google.ai.edge.litertlm.EngineConfig
import com.google.ai.edge.litertlm.ExperimentalApi
import com.google.ai.edge.litertlm.ExperimentalFlags
import com.google.ai.edge.litertlm.LiteRtLmJniException
import com.google.ai.edge.litertlm.Message
import com.google.ai.edge.litertlm.SamplerConfig
import java.io.File
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.onCompletion

/** How to load a bundle; [context] in tokens, prompt and answer together, null for what the bundle asks for. */
data class LoadSettings(val mtp: Boolean, val gpu: Boolean, val context: Int?)

/**
 * A bundle on LiteRT-LM. One conversation at a time; close it once, after its conversations, to free its memory. All calls
 * block, so none is for the main thread.
 */
class LoadedBundle private constructor(private val engine: Engine, val settings: LoadSettings) : AutoCloseable {

    /**
     * Begin a conversation. Both ways are greedy, as LiteRT-LM is with MTP whatever the sampler says, so their texts can be
     * compared. [mtp] without a drafter loaded is an error of the engine's.
     */
    fun converse(mtp: Boolean = settings.mtp, maxTokens: Int? = null): Conversation =
        engine.createConversation(
            ConversationConfig(
                samplerConfig = SamplerConfig(topK = 1, topP = 1.0, temperature = 1.0),
                maxOutputToken = maxTokens,
                enableSpeculativeDecoding = mtp,
            )
        )

    override fun close() = engine.close()

    companion object {
        /**
         * Load [bundle], in seconds; prepared weights are kept in [cache], by the file's name, size and time. Throws [Problem.NoGpu] or
         * [Problem.LoadFailed]. No suspend function: a caller that was cancelled meanwhile would never get what to close.
         */
        @OptIn(ExperimentalApi::class)
        fun load(bundle: BundleFacts, settings: LoadSettings, cache: File): LoadedBundle {
            // Both are read when an engine is made, and count for that engine alone.
            ExperimentalFlags.enableSpeculativeDecoding = settings.mtp && bundle.drafts
            ExperimentalFlags.enableBenchmark = true
            val config =
                EngineConfig(
                    modelPath = bundle.file.absolutePath,
                    backend = if (settings.gpu) Backend.GPU() else Backend.CPU(),
                    maxNumTokens = settings.context,
                    cacheDir = cache.absolutePath,
                )
            val engine = Engine(config)
            try {
                engine.initialize()
            } catch (error: LiteRtLmJniException) {
                // It holds nothing then, and refuses to be closed.
                throw if (settings.gpu) Problem.NoGpu(error.reason()) else Problem.LoadFailed(error.reason())
            }
            return LoadedBundle(engine, settings)
        }
    }
}

/** The answer to [message], as it comes. Whoever stops listening ends the engine's work, too: the flow's end does not. */
fun Conversation.answer(message: String): Flow<Message> =
    sendMessageAsync(message).onCompletion { cause -> if (cause is CancellationException) cancelProcess() }
