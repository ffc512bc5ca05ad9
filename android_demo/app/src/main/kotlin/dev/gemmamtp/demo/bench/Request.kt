package dev.gemmamtp.demo.bench

import android.content.Intent
import dev.gemmamtp.demo.BuildConfig
import dev.gemmamtp.demo.engine.BundleFacts
import dev.gemmamtp.demo.engine.LoadSettings
import java.io.File
import org.json.JSONObject

private val DEFAULT_PROMPTS = listOf("Explain in a few sentences why the sky is blue.")

/**
 * What an intent asks for.
 *
 * @property file extra `prompts`, the name of a file in the app's folder
 * @property maxTokens extra `max_tokens`, of an answer
 * @property repetitions extra `repetitions`
 * @property context extra `context`, in tokens; null for the bundle's usual one
 * @property gpu extra `gpu`
 * @property insisting extra `insist`: load also where less memory is free than the bundle has
 */
data class Request(
    val file: String?,
    val maxTokens: Int,
    val repetitions: Int,
    val context: Int?,
    val gpu: Boolean,
    val insisting: Boolean,
) {
    fun settings(bundle: BundleFacts): LoadSettings =
        LoadSettings(mtp = true, gpu = gpu, context = context ?: bundle.usualContext)

    fun prompts(folder: File): List<String> =
        file?.let { readPrompts(File(folder, it).readLines()) }?.ifEmpty { null } ?: DEFAULT_PROMPTS

    fun toJson(bundle: BundleFacts?): JSONObject =
        JSONObject()
            .put("bundle", bundle?.file?.name ?: JSONObject.NULL)
            .put("backend", if (gpu) "gpu" else "cpu")
            .put("max_tokens", maxTokens)
            .put("context", context ?: bundle?.usualContext ?: JSONObject.NULL)
            .put("repetitions", repetitions)
            .put("runtime", BuildConfig.LITERT_LM)

    companion object {
        fun of(intent: Intent): Request =
            Request(
                file = intent.getStringExtra("prompts"),
                maxTokens = intent.getIntExtra("max_tokens", 128).coerceAtLeast(1),
                repetitions = intent.getIntExtra("repetitions", 1).coerceAtLeast(1),
                context = intent.getIntExtra("context", 0).takeIf { it > 0 },
                gpu = intent.getBooleanExtra("gpu", false),
                insisting = intent.getBooleanExtra("insist", false),
            )
    }
}
