package dev.gemmamtp.demo.engine

/** What a person can mend; [dev.gemmamtp.demo.ui.say] has the words. */
sealed class Problem(val detail: String = "") : Exception(detail) {
    class NoBundle(folder: String) : Problem(folder)

    class Unreadable(val file: String, reason: String) : Problem(reason)

    class NoDrafter : Problem()

    class TooNew(val needed: String, val present: String) : Problem()

    class TooLittleMemory(val neededMiB: Long, val freeMiB: Long) : Problem()

    class NoGpu(reason: String) : Problem(reason)

    class LoadFailed(reason: String) : Problem(reason)

    class AnswerFailed(reason: String) : Problem(reason)

    class CopyFailed(reason: String) : Problem(reason)
}

/** The message of a failure, in one line. */
internal fun Throwable.reason(): String = (message ?: javaClass.simpleName).lineSequence().first()
