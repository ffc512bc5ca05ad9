package dev.gemmamtp.demo.engine

import android.content.Context
import android.net.Uri
import java.io.File
import java.io.IOException

/**
 * Where bundles lie: the app's folder on shared storage, which `adb push` reaches and which needs no permission. They are
 * gigabytes, so none comes with the app.
 */
class BundleStore(private val context: Context) {
    val folder: File
        get() = context.getExternalFilesDir(null) ?: context.filesDir

    /** The bundle that changed last; throws [Problem.NoBundle]. */
    fun newest(): File =
        folder.listFiles { file -> file.extension == "litertlm" }?.maxByOrNull(File::lastModified)
            ?: throw Problem.NoBundle(folder.path)

    /** Copy what the file picker gave; LiteRT-LM maps a file by its path. Throws [Problem.CopyFailed]. */
    fun copyFrom(source: Uri): File {
        val unfinished = File(folder, "picked.part")
        try {
            val input = context.contentResolver.openInputStream(source) ?: throw IOException("it cannot be opened")
            input.use { from -> unfinished.outputStream().use { to -> from.copyTo(to) } }
            return File(folder, "picked.litertlm").also { if (!unfinished.renameTo(it)) throw IOException("rename failed") }
        } catch (error: IOException) {
            unfinished.delete()
            throw Problem.CopyFailed(error.reason())
        }
    }
}
