package dev.gemmamtp.demo.bench

import android.app.Application
import android.util.Log
import androidx.lifecycle.AndroidViewModel
import androidx.lifecycle.viewModelScope
import dev.gemmamtp.demo.BuildConfig
import dev.gemmamtp.demo.engine.BundleFacts
import dev.gemmamtp.demo.engine.BundleStore
import dev.gemmamtp.demo.engine.LoadedBundle
import dev.gemmamtp.demo.engine.Problem
import dev.gemmamtp.demo.engine.checkMemory
import dev.gemmamtp.demo.ui.say
import java.io.File
import java.io.IOException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.launch
import org.json.JSONException
import org.json.JSONObject

private const val TAG = "MtpBenchmark"

/** The benchmark, which goes on when the screen turns, and ends with the activity. */
class BenchmarkViewModel(private val app: Application) : AndroidViewModel(app) {
    private var running: Job? = null

    /** Begin, or go on with what was begun. */
    fun run(request: Request): Job =
        running ?: viewModelScope.launch(Dispatchers.Default) { measureAll(request) }.also { running = it }

    private suspend fun measureAll(request: Request) {
        val store = BundleStore(app, BuildConfig.LITERT_LM)
        val file = File(store.folder, "benchmark.json")
        // An older one must not be taken for this run's.
        file.delete()
        val lines = mutableListOf<JSONObject>()
        var facts: BundleFacts? = null
        val failure =
            try {
                val prompts = request.prompts(store.folder)
                val bundle = store.newest().also { facts = it }
                if (!bundle.drafts) throw Problem.NoDrafter()
                if (!request.insisting) checkMemory(app, bundle.file)
                LoadedBundle.load(bundle, request.settings(bundle), app.cacheDir).use { loaded ->
                    answer(loaded, prompts, request, lines)
                }
                null
            } catch (problem: Problem) {
                app.say(problem)
            } catch (error: IOException) {
                "${request.file}: ${error.message}"
            } catch (error: JSONException) {
                "${request.file}: ${error.message}"
            }
        val unfinished = File(store.folder, "benchmark.json.part")
        unfinished.writeText(runToJson(request.toJson(facts), lines, failure).toString(2))
        unfinished.renameTo(file)
        Log.i(TAG, "done: $file")
    }

    private suspend fun answer(
        bundle: LoadedBundle,
        prompts: List<String>,
        request: Request,
        lines: MutableList<JSONObject>,
    ) {
        warmUp(bundle)
        for (repetition in 0 until request.repetitions) {
            prompts.forEachIndexed { number, prompt ->
                val found = compare(bundle, prompt, request.maxTokens, mtpFirst = (repetition + number) % 2 == 1)
                lines += found.toJson(number + 1, repetition + 1)
                Log.i(TAG, "prompt ${number + 1}: ${found.ratio}x, equal: ${found.equal}")
            }
        }
    }
}
