package dev.gemmamtp.demo.engine

import com.google.ai.edge.litertlm.Backend
import com.google.ai.edge.litertlm.Conversation
import com.google.ai.edge.litertlm.ConversationConfig
import com.google.ai.edge.litertlm.Engine
import com.google.ai.edge.litertlm.EngineConfig
import com.google.ai.edge.litertlm.ExperimentalApi
import com.google.ai.edge.litertlm.ExperimentalFlags
import com.google.ai.edge.litertlm.LiteRtLmJniException
import com.google.ai.edge.litertlm.SamplerConfig
import java.io.File
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.withContext

/** How to load a bundle; [context] in tokens, null for the bundle's own. */
data class LoadSettings(val mtp: Boolean, val gpu: Boolean, val context: Int?)

/** A bundle on LiteRT-LM. One conversation at a time; close it to free its memory. */
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
        /** Load [bundle]; takes seconds. Throws [Problem.NoGpu] or [Problem.LoadFailed]. */
        @OptIn(ExperimentalApi::class)
        suspend fun load(bundle: BundleFacts, settings: LoadSettings, cache: File): LoadedBundle =
            withContext(Dispatchers.Default) {
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
                    throw if (settings.gpu) Problem.NoGpu(error.reason()) else Problem.LoadFailed(error.reason())
                }
                LoadedBundle(engine, settings)
            }
    }
}
