package dev.gemmamtp.demo.ui

import android.content.Context
import dev.gemmamtp.demo.R
import dev.gemmamtp.demo.engine.Problem

/** A problem in a person's words, with what to do. */
fun Context.say(problem: Problem): String =
    when (problem) {
        is Problem.NoBundle -> getString(R.string.no_bundle, problem.detail)
        is Problem.Unreadable -> getString(R.string.unreadable, problem.file, problem.detail)
        is Problem.NoDrafter -> getString(R.string.no_drafter)
        is Problem.TooNew -> getString(R.string.too_new, problem.needed, problem.present)
        is Problem.TooLittleMemory -> getString(R.string.too_little_memory, problem.neededMiB, problem.freeMiB)
        is Problem.NoGpu -> getString(R.string.no_gpu, problem.detail)
        is Problem.LoadFailed -> getString(R.string.load_failed, problem.detail)
        is Problem.AnswerFailed -> getString(R.string.answer_failed, problem.detail)
        is Problem.CopyFailed -> getString(R.string.copy_failed, problem.detail)
    }
