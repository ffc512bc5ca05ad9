package checks

import dev.gemmamtp.demo.bench.Comparison
import dev.gemmamtp.demo.bench.Measurement
import dev.gemmamtp.demo.engine.BundleFacts
import dev.gemmamtp.demo.engine.isNewer
import dev.gemmamtp.demo.ui.DemoState
import dev.gemmamtp.demo.ui.Turn
import java.io.File

private fun answer(text: String, tokens: Int, speed: Double = 10.0, cut: Boolean = false) =
    Measurement(text, tokens, speed, cut, firstToken = 1.0, seconds = 2.0, memoryMiB = 100)

private fun both(off: Measurement, on: Measurement) = Comparison("prompt", off, on)

/** What the app computes without Android, run on this machine. */
fun main() {
    check(isNewer("0.19", "0.18.1"))
    check(isNewer("0.18.1", "0.18.0"))
    check(isNewer("1.0.0", "0.99"))
    check(!isNewer("0.18", "0.18.0"))
    check(!isNewer("v0.9.9", "0.18.0-rc1"))

    check(both(answer("abc", 3), answer("abc", 3)).equal)
    check(!both(answer("abc", 3), answer("abd", 3)).equal)
    // Ended by the limit: MTP finishes its round.
    check(both(answer("abc", 10, cut = true), answer("abcde", 12, cut = true)).equal)
    // Ended by a stop token, so nothing may follow.
    check(!both(answer("abc", 3), answer("abcde", 5)).equal)

    check(both(answer("a", 11, speed = 5.0), answer("a", 11, speed = 10.0)).ratio == 2.0)
    check(both(answer("", 0, speed = 0.0), answer("a", 5)).ratio == 0.0)

    val bundle = BundleFacts(File("a.litertlm"), drafts = true, statedContext = 32_003)
    check(bundle.usualContext == 4096)
    check(bundle.copy(statedContext = 256).usualContext == 256)
    check(bundle.copy(statedContext = 0).usualContext == 4096)

    val found = DemoState().showing(bundle)
    check(found.settings.mtp && found.settings.context == 4096)
    check(!found.showing(bundle.copy(drafts = false)).settings.mtp)

    checkLifecycle()

    check(DemoState(turns = listOf(Turn(true, "q"), Turn(false, "a"))).grown("b").turns.last() == Turn(false, "ab"))
}
