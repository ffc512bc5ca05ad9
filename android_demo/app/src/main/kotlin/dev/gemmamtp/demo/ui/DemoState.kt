package dev.gemmamtp.demo.ui

import dev.gemmamtp.demo.bench.Comparison
import dev.gemmamtp.demo.engine.BundleFacts
import dev.gemmamtp.demo.engine.LoadSettings

/** One side of the chat. */
data class Turn(val fromUser: Boolean, val text: String)

/** All that the screen shows. */
data class DemoState(
    val bundle: BundleFacts? = null,
    val settings: LoadSettings = LoadSettings(mtp = false, gpu = false, context = null),
    val loading: Boolean = false,
    val loaded: Boolean = false,
    val answering: Boolean = false,
    val turns: List<Turn> = emptyList(),
    val comparison: Comparison? = null,
    val problem: String? = null,
) {
    /** `this` with [piece] behind the last turn's text. */
    fun grown(piece: String): DemoState {
        val last = turns.last()
        return copy(turns = turns.dropLast(1) + last.copy(text = last.text + piece))
    }
}
