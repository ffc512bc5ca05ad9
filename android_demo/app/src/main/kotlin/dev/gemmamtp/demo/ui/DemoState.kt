package dev.gemmamtp.demo.ui

import dev.gemmamtp.demo.bench.Comparison
import dev.gemmamtp.demo.engine.BundleFacts
import dev.gemmamtp.demo.engine.LoadSettings

/** One side of the chat. */
data class Turn(val fromUser: Boolean, val text: String)

/** What the engine's thread is busy with. */
enum class Work {
    NONE,
    LOADING,
    ANSWERING,
}

/** All that the screen shows; [mayInsist] where a problem is a guess that a person may try against. */
data class DemoState(
    val bundle: BundleFacts? = null,
    val settings: LoadSettings = LoadSettings(mtp = false, gpu = false, context = null),
    val work: Work = Work.NONE,
    val loaded: Boolean = false,
    val turns: List<Turn> = emptyList(),
    val comparison: Comparison? = null,
    val problem: String? = null,
    val mayInsist: Boolean = false,
) {
    /** `this` with what is chosen for a bundle that was just found: MTP where it has a drafter, and nowhere else. */
    fun showing(found: BundleFacts): DemoState =
        copy(bundle = found, settings = settings.copy(mtp = found.drafts, context = found.usualContext))

    /** `this` with [piece] behind the last turn's text. */
    fun grown(piece: String): DemoState {
        val last = turns.last()
        return copy(turns = turns.dropLast(1) + last.copy(text = last.text + piece))
    }
}
