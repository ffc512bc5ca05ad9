package dev.gemmamtp.demo.engine

import android.content.Context
import android.net.Uri
import java.io.File
import java.io.IOException

private const val PICKED = "picked.litertlm"

/**
 * Where bundles lie: the app's folder on shared storage, which `adb push` reaches and which needs no permission. They are
 * gigabytes, so none comes with the app. Reads and writes files: not for the main thread.
 */
class BundleStore(private val context: Context, private val runtime: String) {
    val folder: File
        get() = context.getExternalFilesDir(null) ?: context.filesDir

    /** The bundle that changed last; throws [Problem.NoBundle], and what [BundleFacts.read] throws. */
    fun newest(): BundleFacts {
        val found = folder.listFiles { file -> file.extension == "litertlm" }?.maxByOrNull(File::lastModified)
        return BundleFacts.read(found ?: throw Problem.NoBundle(folder.path), runtime)
    }

    /**
     * Copy what the file picker gave; LiteRT-LM maps a file by its path. What cannot be read as a bundle is not kept.
     * Throws [Problem.CopyFailed], and what [BundleFacts.read] throws.
     */
    fun copyFrom(source: Uri): BundleFacts {
        val unfinished = File(folder, "$PICKED.part")
        try {
            val input = context.contentResolver.openInputStream(source) ?: throw IOException("it cannot be opened")
            input.use { from -> unfinished.outputStream().use { to -> from.copyTo(to) } }
            val facts = BundleFacts.read(unfinished, runtime)
            val whole = File(folder, PICKED)
            if (!unfinished.renameTo(whole)) throw IOException("it cannot be renamed to $whole")
            return facts.copy(file = whole)
        } catch (error: IOException) {
            throw Problem.CopyFailed(error.reason())
        } finally {
            unfinished.delete()
        }
    }
}
