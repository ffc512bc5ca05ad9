package dev.gemmamtp.demo.ui

import android.app.Application
import android.net.Uri
import androidx.lifecycle.AndroidViewModel
import com.google.ai.edge.litertlm.Conversation
import com.google.ai.edge.litertlm.LiteRtLmJniException
import dev.gemmamtp.demo.BuildConfig
import dev.gemmamtp.demo.bench.compare
import dev.gemmamtp.demo.bench.warmUp
import dev.gemmamtp.demo.engine.BundleStore
import dev.gemmamtp.demo.engine.LoadSettings
import dev.gemmamtp.demo.engine.LoadedBundle
import dev.gemmamtp.demo.engine.Problem
import dev.gemmamtp.demo.engine.answer
import dev.gemmamtp.demo.engine.checkMemory
import dev.gemmamtp.demo.engine.reason
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch

private const val COMPARED_TOKENS = 128

/** Holds the bundle, its engine and the chat, over rotations; one piece of work at a time, and none on the main thread. */
class DemoViewModel(private val app: Application) : AndroidViewModel(app) {
    private val store = BundleStore(app, BuildConfig.LITERT_LM)
    private val mutable = MutableStateFlow(DemoState())
    val state: StateFlow<DemoState> = mutable.asStateFlow()

    // Not the view model's own scope: that ends with it, and the engine has to be closed after its last work.
    private val worker = CoroutineScope(SupervisorJob() + Dispatchers.Default.limitedParallelism(1))
    private var running: Job? = null

    // Of the worker alone.
    private var engine: LoadedBundle? = null
    private var chat: Conversation? = null

    /** Look at the newest bundle in the app's folder, or at the one that was [picked]. */
    fun look(picked: Uri? = null) =
        start(Work.LOADING) {
            val found = if (picked == null) store.newest() else store.copyFrom(picked)
            mutable.update { it.showing(found) }
        }

    fun choose(settings: LoadSettings) = mutable.update { it.copy(settings = settings) }

    /** Load the bundle as chosen; [insisting] also where less memory is free than it has. */
    fun load(insisting: Boolean = false) =
        start(Work.LOADING) {
            val facts = state.value.bundle ?: throw Problem.NoBundle(store.folder.path)
            if (!insisting) checkMemory(app, facts.file)
            release()
            val loaded = LoadedBundle.load(facts, state.value.settings, app.cacheDir).also { engine = it }
            try {
                warmUp(loaded)
            } catch (failure: Exception) {
                release()
                throw failure
            }
            mutable.update { it.copy(loaded = true, turns = emptyList(), comparison = null) }
        }

    fun unload() = start(Work.LOADING) { release() }

    /** Send [message] as the chat's next turn, and show the answer as it comes. */
    fun send(message: String) =
        start(Work.ANSWERING) {
            val conversation = chat ?: engine?.converse()?.also { chat = it } ?: return@start
            mutable.update { it.copy(turns = it.turns + Turn(true, message) + Turn(false, "")) }
            conversation.answer(message).collect { piece -> mutable.update { it.grown(piece.toString()) } }
        }

    /** [prompt] with MTP off and on, side by side; the chat's conversation ends, as the engine holds one at a time. */
    fun compareWith(prompt: String) =
        start(Work.ANSWERING) {
            val loaded = engine ?: return@start
            endChat()
            mutable.update { it.copy(comparison = null, turns = emptyList()) }
            val found = compare(loaded, prompt, COMPARED_TOKENS, mtpFirst = false)
            mutable.update { it.copy(comparison = found) }
        }

    fun stop() {
        running?.cancel()
    }

    override fun onCleared() {
        val last = running
        last?.cancel()
        worker.launch {
            last?.join()
            release()
        }
    }

    private fun endChat() {
        chat?.close()
        chat = null
    }

    private fun release() {
        endChat()
        engine?.close()
        engine = null
        mutable.update { it.copy(loaded = false) }
    }

    private fun start(work: Work, block: suspend () -> Unit) {
        // What was stopped still runs until the engine has let go.
        if (running?.isCompleted == false) return
        mutable.update { it.copy(work = work, problem = null, mayInsist = false) }
        val job = worker.launch {
            try {
                block()
            } catch (problem: Problem) {
                mutable.update { it.copy(problem = app.say(problem), mayInsist = problem is Problem.TooLittleMemory) }
            } catch (error: LiteRtLmJniException) {
                mutable.update { it.copy(problem = app.say(Problem.AnswerFailed(error.reason()))) }
            }
        }
        running = job
        // Not at the block's end: what the screen offers from then on would still find it running.
        job.invokeOnCompletion { mutable.update { it.copy(work = Work.NONE) } }
    }
}
