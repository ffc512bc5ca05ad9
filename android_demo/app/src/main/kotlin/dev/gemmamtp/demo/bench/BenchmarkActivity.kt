package dev.gemmamtp.demo.bench

import android.content.Intent
import android.os.Bundle
import android.util.Log
import androidx.activity.ComponentActivity
import androidx.lifecycle.lifecycleScope
import dev.gemmamtp.demo.BuildConfig
import dev.gemmamtp.demo.engine.BundleFacts
import dev.gemmamtp.demo.engine.BundleStore
import dev.gemmamtp.demo.engine.LoadSettings
import dev.gemmamtp.demo.engine.LoadedBundle
import dev.gemmamtp.demo.engine.Problem
import dev.gemmamtp.demo.engine.checkMemory
import dev.gemmamtp.demo.ui.say
import java.io.File
import java.io.IOException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import org.json.JSONException
import org.json.JSONObject

private const val TAG = "MtpBenchmark"
private val DEFAULT_PROMPTS = listOf("Explain in a few sentences why the sky is blue.")

/**
 * Started by `adb shell am start -n dev.gemmamtp.demo/.bench.BenchmarkActivity`, with extras `prompts` (a file in the app's
 * folder), `max_tokens`, `context`, `repetitions` and `gpu`. Writes benchmark.json into that folder and closes.
 */
class BenchmarkActivity : ComponentActivity() {
    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        lifecycleScope.launch {
            val store = BundleStore(this@BenchmarkActivity)
            val result = withContext(Dispatchers.Default) { run(store, Request(intent)) }
            withContext(Dispatchers.IO) {
                val unfinished = File(store.folder, "benchmark.json.part")
                unfinished.writeText(result.toString(2))
                unfinished.renameTo(File(store.folder, "benchmark.json"))
            }
            Log.i(TAG, "done: ${store.folder}/benchmark.json")
            finish()
        }
    }

    private suspend fun run(store: BundleStore, request: Request): JSONObject {
        val lines = mutableListOf<JSONObject>()
        val failure =
            try {
                val prompts = request.prompts(store.folder)
                val facts = BundleFacts.read(store.newest(), BuildConfig.LITERT_LM)
                checkMemory(this, facts.file)
                LoadedBundle.load(facts, request.settings, cacheDir).use { bundle ->
                    answer(bundle, prompts, request, lines)
                }
                if (facts.drafts) null else "the bundle has no drafter"
            } catch (problem: Problem) {
                say(problem)
            } catch (error: IOException) {
                "${request.file}: ${error.message}"
            } catch (error: JSONException) {
                "${request.file}: ${error.message}"
            }
        return runToJson(request.toJson(), lines, failure)
    }

    private suspend fun answer(bundle: LoadedBundle, prompts: List<String>, request: Request, lines: MutableList<JSONObject>) {
        // Once through all that the measured answers need.
        compare(bundle, prompts.first(), maxTokens = 8, mtpFirst = false)
        for (repetition in 0 until request.repetitions) {
            prompts.forEachIndexed { number, prompt ->
                val found = compare(bundle, prompt, request.maxTokens, mtpFirst = (repetition + number) % 2 == 1)
                lines += found.toJson(number + 1, repetition + 1)
                Log.i(TAG, "prompt ${number + 1}: ${found.ratio}x, equal: ${found.equal}")
            }
        }
    }
}

/** What the intent asks for. */
private class Request(intent: Intent) {
    val file: String? = intent.getStringExtra("prompts")
    val maxTokens: Int = intent.getIntExtra("max_tokens", 128)
    val repetitions: Int = intent.getIntExtra("repetitions", 1)
    private val context: Int = intent.getIntExtra("context", 0)
    val settings =
        LoadSettings(mtp = true, gpu = intent.getBooleanExtra("gpu", false), context = context.takeIf { it > 0 })

    fun prompts(folder: File): List<String> =
        file?.let { readPrompts(File(folder, it).readLines()) }?.ifEmpty { null } ?: DEFAULT_PROMPTS

    fun toJson(): JSONObject =
        JSONObject()
            .put("backend", if (settings.gpu) "gpu" else "cpu")
            .put("max_tokens", maxTokens)
            .put("context", context)
            .put("repetitions", repetitions)
            .put("runtime", BuildConfig.LITERT_LM)
}
