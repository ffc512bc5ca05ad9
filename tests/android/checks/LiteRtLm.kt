@file:Suppress("UNUSED_PARAMETER", "unused")

// In the stub's place where the app is run: an engine as strict as the real one about what is closed, when, and how often.

package com.google.ai.edge.litertlm

import java.util.concurrent.CancellationException
import java.util.concurrent.CopyOnWriteArrayList
import java.util.concurrent.Semaphore
import kotlin.concurrent.thread
import kotlinx.coroutines.channels.awaitClose
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.callbackFlow

/** What the app did with the engine, and what holds the engine up: a permit lets one call of its kind go on. */
object Engines {
    val calls = CopyOnWriteArrayList<String>()
    val threads = CopyOnWriteArrayList<Thread>()
    val loads = Semaphore(0)
    val pieces = Semaphore(0)
    var failure: String? = null

    fun called(name: String) {
        calls += name
        threads += Thread.currentThread()
    }
}

@RequiresOptIn(level = RequiresOptIn.Level.ERROR)
@Retention(AnnotationRetention.BINARY)
@Target(AnnotationTarget.CLASS, AnnotationTarget.FUNCTION)
annotation class ExperimentalApi

@ExperimentalApi
object ExperimentalFlags {
    var enableBenchmark: Boolean = false
    var enableSpeculativeDecoding: Boolean? = null
}

class LiteRtLmJniException(message: String) : RuntimeException(message)

sealed class Backend(val name: String) {
    data class CPU(val threadCount: Int? = null, @Deprecated("Use threadCount") val numOfThreads: Int? = null) : Backend("CPU")

    class GPU : Backend("GPU")

    data class NPU(val nativeLibraryDir: String = "") : Backend("NPU")
}

enum class ActivationDataType(val value: Int) {
    FLOAT32(0),
    FLOAT16(1),
    INT16(2),
    INT8(3),
}

data class EngineConfig(
    val modelPath: String,
    val backend: Backend = Backend.CPU(),
    val visionBackend: Backend? = null,
    val audioBackend: Backend? = null,
    val maxNumTokens: Int? = null,
    val maxNumImages: Int? = null,
    val cacheDir: String? = null,
    val activationDataType: ActivationDataType? = null,
)

data class SamplerConfig(val topK: Int, val topP: Double, val temperature: Double, val seed: Int = 0)

class Channel private constructor()

class LoraConfig private constructor()

class ThinkingConfig private constructor()

interface ToolProvider

data class ConversationConfig(
    val systemInstruction: Contents? = null,
    val initialMessages: List<Message> = listOf(),
    val tools: List<ToolProvider> = listOf(),
    val samplerConfig: SamplerConfig? = null,
    val automaticToolCalling: Boolean = true,
    val channels: List<Channel>? = null,
    val extraContext: Map<String, Any> = emptyMap(),
    val loraConfig: LoraConfig? = null,
    val prefillPrefaceOnInit: Boolean = false,
    val maxOutputToken: Int? = null,
    val thinkingConfig: ThinkingConfig? = null,
    val enableResponseFormat: Boolean = false,
    val enableSpeculativeDecoding: Boolean? = null,
    val chatTemplate: String? = null,
)

class Contents private constructor()

class Message internal constructor(private val text: String) {
    override fun toString(): String = text
}

data class BenchmarkInfo(val lastDecodeTokenCount: Int, val lastDecodeTokensPerSecond: Double)

/** Answers a letter for every permit, eight at most. */
class Conversation internal constructor(private val engine: Engine) : AutoCloseable {
    @Volatile private var alive = true
    @Volatile private var cancelled = false
    @Volatile private var answering: Thread? = null

    fun sendMessageAsync(text: String, extraContext: Map<String, Any> = emptyMap()): Flow<Message> = callbackFlow {
        check(alive) { "Conversation is not alive." }
        Engines.called("send")
        cancelled = false
        answering = thread {
            repeat(8) {
                while (!cancelled && !Engines.pieces.tryAcquire()) Thread.sleep(1)
                if (!cancelled) trySend(Message("x"))
            }
            close(if (cancelled) CancellationException("Task cancelled") else null)
        }
        awaitClose {}
    }

    fun cancelProcess() {
        check(alive) { "Conversation is not alive." }
        Engines.called("cancel")
        cancelled = true
    }

    @ExperimentalApi fun getBenchmarkInfo() = BenchmarkInfo(8, 10.0)

    fun getTokenCount(): Int = 8

    override fun close() {
        check(alive) { "Conversation is closed already." }
        // The real one waits as well, for as long as an answer takes that nobody cancelled.
        answering?.join()
        alive = false
        Engines.called("end")
        engine.conversation = null
    }
}

class Engine(val engineConfig: EngineConfig) : AutoCloseable {
    private var initialized = false
    internal var conversation: Conversation? = null

    fun initialize() {
        Engines.called("load")
        Engines.loads.acquire()
        Engines.failure?.let { throw LiteRtLmJniException(it) }
        initialized = true
    }

    fun createConversation(conversationConfig: ConversationConfig = ConversationConfig()): Conversation {
        check(initialized) { "Engine is not initialized." }
        check(conversation == null) { "a session already exists" }
        Engines.called("converse")
        return Conversation(this).also { conversation = it }
    }

    override fun close() {
        check(initialized) { "Engine is not initialized." }
        check(conversation == null) { "a conversation is open" }
        initialized = false
        Engines.called("unload")
    }
}

class LlmCapability internal constructor() {
    fun hasSpeculativeDecodingSupport(): Boolean = true
}

class ModelInfo(modelPath: String) : AutoCloseable {
    val llm: LlmCapability? = LlmCapability()

    fun maxContextTokens(): Int = 256

    fun minRuntimeVersion(): String? = null

    override fun close() = Unit
}
