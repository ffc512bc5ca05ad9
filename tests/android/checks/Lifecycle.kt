package checks

import android.app.Application
import com.google.ai.edge.litertlm.Engines
import dev.gemmamtp.demo.ui.DemoState
import dev.gemmamtp.demo.ui.DemoViewModel
import dev.gemmamtp.demo.ui.Work
import java.io.File
import java.util.concurrent.CopyOnWriteArrayList
import kotlin.io.path.createTempDirectory

private const val LOADED_AND_WARM = "load converse send end converse send end"

private class App(private val folder: File) : Application() {
    override fun getExternalFilesDir(type: String?): File = folder

    override val cacheDir: File = folder

    override fun <T> getSystemService(type: Class<T>): T? = null
}

/** A view model with a bundle at hand, and an engine that does nothing before it is allowed to. */
private class Screen {
    val model: DemoViewModel

    init {
        Engines.calls.clear()
        Engines.threads.clear()
        Engines.loads.drainPermits()
        Engines.pieces.drainPermits()
        Engines.failure = null
        val folder = createTempDirectory().toFile()
        File(folder, "model.litertlm").writeText("bundle")
        model = DemoViewModel(App(folder))
        model.look()
        await { it.bundle != null && it.work == Work.NONE }
    }

    fun await(condition: (DemoState) -> Boolean) = await({ "${model.state.value}" }) { condition(model.state.value) }

    fun load() {
        model.load()
        Engines.loads.release()
        Engines.pieces.release(16)
        await { it.loaded && it.work == Work.NONE }
    }

    /** What Android calls when the screen is gone for good. */
    fun leave() = DemoViewModel::class.java.getDeclaredMethod("onCleared").apply { isAccessible = true }.invoke(model)

    fun awaitCalls(expected: String) = await({ expected }) { Engines.calls.joinToString(" ") == expected }
}

private fun await(what: () -> String, condition: () -> Boolean) {
    val end = System.nanoTime() + 10_000_000_000
    while (!condition()) {
        check(System.nanoTime() < end) { "never: ${what()}; the engine saw ${Engines.calls}" }
        Thread.sleep(2)
    }
}

/** The app's use of the engine, with an engine that refuses what the real one refuses: all of it is closed, each once. */
fun checkLifecycle() {
    val thrown = CopyOnWriteArrayList<Throwable>()
    Thread.setDefaultUncaughtExceptionHandler { _, error -> thrown += error }
    chatsAndUnloads()
    stopsAnAnswer()
    leavesWhileLoading()
    leavesWhileAnswering()
    tellsOfAGpuThatCannot()
    check(thrown.isEmpty()) { "the app would have crashed: $thrown" }
}

private fun chatsAndUnloads() {
    val screen = Screen()
    screen.load()
    screen.model.send("one")
    Engines.pieces.release(8)
    screen.await { it.work == Work.NONE && it.turns.lastOrNull()?.text == "xxxxxxxx" }
    screen.model.compareWith("two")
    Engines.pieces.release(16)
    screen.await { it.work == Work.NONE && it.comparison?.equal == true }
    screen.model.unload()
    screen.awaitCalls("$LOADED_AND_WARM converse send end converse send end converse send end unload")
    screen.leave()
    check(Thread.currentThread() !in Engines.threads) { "the engine was called on the main thread" }
}

private fun stopsAnAnswer() {
    val screen = Screen()
    screen.load()
    screen.model.send("one")
    Engines.pieces.release(2)
    screen.await { it.turns.lastOrNull()?.text == "xx" }
    screen.model.stop()
    screen.await { it.work == Work.NONE }
    screen.model.send("two")
    Engines.pieces.release(8)
    screen.await { it.work == Work.NONE && it.turns.lastOrNull()?.text == "xxxxxxxx" }
    screen.leave()
    screen.awaitCalls("$LOADED_AND_WARM converse send cancel send end unload")
}

private fun leavesWhileLoading() {
    val screen = Screen()
    screen.model.load()
    screen.awaitCalls("load")
    screen.leave()
    Engines.loads.release()
    await({ "closed" }) { Engines.calls.lastOrNull() == "unload" }
}

private fun leavesWhileAnswering() {
    val screen = Screen()
    screen.load()
    screen.model.send("one")
    Engines.pieces.release(2)
    screen.await { it.turns.lastOrNull()?.text == "xx" }
    screen.leave()
    screen.awaitCalls("$LOADED_AND_WARM converse send cancel end unload")
}

private fun tellsOfAGpuThatCannot() {
    val screen = Screen()
    Engines.failure = "no OpenCL"
    screen.model.choose(screen.model.state.value.settings.copy(gpu = true))
    screen.model.load()
    Engines.loads.release()
    screen.await { it.work == Work.NONE && it.problem?.endsWith("no OpenCL") == true }
    screen.leave()
    screen.awaitCalls("load")
}
