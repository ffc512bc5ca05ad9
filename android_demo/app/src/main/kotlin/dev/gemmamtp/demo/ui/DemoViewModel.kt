package dev.gemmamtp.demo.ui

import android.app.Application
import android.net.Uri
import androidx.lifecycle.AndroidViewModel
import androidx.lifecycle.viewModelScope
import com.google.ai.edge.litertlm.Conversation
import com.google.ai.edge.litertlm.LiteRtLmJniException
import dev.gemmamtp.demo.BuildConfig
import dev.gemmamtp.demo.bench.compare
import dev.gemmamtp.demo.engine.BundleFacts
import dev.gemmamtp.demo.engine.BundleStore
import dev.gemmamtp.demo.engine.LoadSettings
import dev.gemmamtp.demo.engine.LoadedBundle
import dev.gemmamtp.demo.engine.Problem
import dev.gemmamtp.demo.engine.checkMemory
import dev.gemmamtp.demo.engine.reason
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

private const val COMPARED_TOKENS = 128

/** Holds the bundle, its engine and the chat; one thing at a time. */
class DemoViewModel(private val app: Application) : AndroidViewModel(app) {
    private val store = BundleStore(app)
    private val mutable = MutableStateFlow(DemoState())
    val state: StateFlow<DemoState> = mutable.asStateFlow()

    private var engine: LoadedBundle? = null
    private var chat: Conversation? = null
    private var running: Job? = null

    /** Look at the bundle in the app's folder, or at the one that was [picked]. */
    fun look(picked: Uri? = null) = start {
        val facts =
            withContext(Dispatchers.IO) {
                BundleFacts.read(picked?.let(store::copyFrom) ?: store.newest(), BuildConfig.LITERT_LM)
            }
        // MTP is offered where the bundle has a drafter, and nowhere else.
        mutable.update { it.copy(bundle = facts, settings = it.settings.copy(mtp = facts.drafts)) }
    }

    fun choose(settings: LoadSettings) = mutable.update { it.copy(settings = settings) }

    fun load() = start {
        val facts = state.value.bundle ?: throw Problem.NoBundle(store.folder.path)
        checkMemory(app, facts.file)
        unload()
        mutable.update { it.copy(loading = true) }
        engine = LoadedBundle.load(facts, state.value.settings, app.cacheDir)
        mutable.update { it.copy(loaded = true, turns = emptyList(), comparison = null) }
    }

    fun unload() {
        chat?.close()
        chat = null
        engine?.close()
        engine = null
        mutable.update { it.copy(loaded = false) }
    }

    /** Send [message] as the chat's next turn, and show the answer as it comes. */
    fun send(message: String) = start {
        val conversation = chat ?: engine?.converse()?.also { chat = it } ?: return@start
        mutable.update { it.copy(answering = true, turns = it.turns + Turn(true, message) + Turn(false, "")) }
        try {
            conversation.sendMessageAsync(message).collect { piece -> mutable.update { it.grown(piece.toString()) } }
        } catch (stopped: CancellationException) {
            // The flow's end alone does not end the engine's work.
            conversation.cancelProcess()
            throw stopped
        }
    }

    /** [prompt] with MTP off and on, side by side; the chat's conversation ends, as the engine holds one at a time. */
    fun compareWith(prompt: String) = start {
        val loaded = engine ?: return@start
        chat?.close()
        chat = null
        mutable.update { it.copy(answering = true, comparison = null, turns = emptyList()) }
        val found = withContext(Dispatchers.Default) { compare(loaded, prompt, COMPARED_TOKENS, mtpFirst = false) }
        mutable.update { it.copy(comparison = found) }
    }

    fun stop() {
        running?.cancel()
    }

    override fun onCleared() {
        running?.cancel()
        unload()
    }

    private fun start(work: suspend () -> Unit) {
        if (running?.isActive == true) return
        mutable.update { it.copy(problem = null) }
        running = viewModelScope.launch {
            try {
                work()
            } catch (problem: Problem) {
                mutable.update { it.copy(problem = app.say(problem)) }
            } catch (error: LiteRtLmJniException) {
                mutable.update { it.copy(problem = app.say(Problem.AnswerFailed(error.reason()))) }
            } finally {
                mutable.update { it.copy(loading = false, answering = false) }
            }
        }
    }
}
