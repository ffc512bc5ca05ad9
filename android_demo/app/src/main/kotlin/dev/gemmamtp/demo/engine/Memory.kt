package dev.gemmamtp.demo.engine

import android.app.ActivityManager
import android.content.Context
import android.os.Debug
import java.io.File

private const val MIB = 1024L * 1024L

/** Memory that the app takes now, its share of what it maps among it, in MiB. */
fun usedMiB(): Long = Debug.getPss() / 1024L

/**
 * Throws [Problem.TooLittleMemory] where less is free than [bundle] has. Its weights are mapped, so it may run all the
 * same, reading some of them again and again: a person can insist.
 */
fun checkMemory(context: Context, bundle: File) {
    val memory = ActivityManager.MemoryInfo()
    val manager = context.getSystemService(ActivityManager::class.java) ?: return
    manager.getMemoryInfo(memory)
    if (bundle.length() > memory.availMem) throw Problem.TooLittleMemory(bundle.length() / MIB, memory.availMem / MIB)
}
