@file:Suppress("UNUSED_PARAMETER", "unused")

package com.google.ai.edge.litertlm

import kotlinx.coroutines.flow.Flow

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

class Message internal constructor() {
    override fun toString(): String = TODO()
}

data class BenchmarkInfo(
    val initTimeInSecond: Double,
    val timeToFirstTokenInSecond: Double,
    val lastPrefillTokenCount: Int,
    val lastDecodeTokenCount: Int,
    val lastPrefillTokensPerSecond: Double,
    val lastDecodeTokensPerSecond: Double,
)

class Conversation internal constructor() : AutoCloseable {
    val isAlive: Boolean
        get() = TODO()

    fun sendMessageAsync(text: String, extraContext: Map<String, Any> = emptyMap()): Flow<Message> = TODO()

    fun cancelProcess(): Unit = TODO()

    @ExperimentalApi fun getBenchmarkInfo(): BenchmarkInfo = TODO()

    fun getTokenCount(): Int = TODO()

    override fun close(): Unit = TODO()
}

class Engine(val engineConfig: EngineConfig) : AutoCloseable {
    fun isInitialized(): Boolean = TODO()

    fun initialize(): Unit = TODO()

    fun createConversation(conversationConfig: ConversationConfig = ConversationConfig()): Conversation = TODO()

    override fun close(): Unit = TODO()
}

class LlmCapability internal constructor() {
    fun hasSpeculativeDecodingSupport(): Boolean = TODO()

    fun isDynamicContext(): Boolean = TODO()
}

class ModelInfo(modelPath: String) : AutoCloseable {
    val llm: LlmCapability?
        get() = TODO()

    fun maxContextTokens(): Int = TODO()

    fun minRuntimeVersion(): String? = TODO()

    override fun close(): Unit = TODO()
}
