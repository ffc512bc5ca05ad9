@file:Suppress("UNUSED_PARAMETER", "unused")

package android.stubs

// Several packages in one file are not to be had in Kotlin: tests/android/test_app.py splits at the lines `//: PACKAGE`.
//: android.net
abstract class Uri
//: android.os
class Bundle

object Debug {
    @JvmStatic fun getPss(): Long = 0
}
//: android.view
abstract class Window {
    fun addFlags(flags: Int): Unit = TODO()
}

interface WindowManager {
    class LayoutParams {
        companion object {
            const val FLAG_KEEP_SCREEN_ON: Int = 128
        }
    }
}
//: android.util
object Log {
    @JvmStatic fun i(tag: String?, message: String): Int = TODO()
}
//: android.content
abstract class ContentResolver {
    fun openInputStream(uri: android.net.Uri): java.io.InputStream? = TODO()
}

abstract class Context {
    val contentResolver: ContentResolver
        get() = TODO()
    open val cacheDir: java.io.File
        get() = TODO()
    val filesDir: java.io.File
        get() = TODO()

    open fun getExternalFilesDir(type: String?): java.io.File? = TODO()

    fun getString(id: Int): String = "string $id"

    fun getString(id: Int, vararg arguments: Any?): String = "string $id: ${arguments.joinToString()}"

    open fun <T> getSystemService(type: Class<T>): T? = TODO()
}

class Intent {
    fun getStringExtra(name: String): String? = TODO()

    fun getIntExtra(name: String, default: Int): Int = TODO()

    fun getBooleanExtra(name: String, default: Boolean): Boolean = TODO()
}
//: android.app
class ActivityManager {
    fun getMemoryInfo(info: MemoryInfo): Unit = TODO()

    class MemoryInfo {
        @JvmField var availMem: Long = 0
    }
}

abstract class Application : android.content.Context()

abstract class Activity : android.content.Context() {
    val intent: android.content.Intent
        get() = TODO()
    val window: android.view.Window
        get() = TODO()

    protected open fun onCreate(savedInstanceState: android.os.Bundle?): Unit = TODO()

    fun finish(): Unit = TODO()
}
//: org.json
class JSONException(message: String) : Exception(message)

class JSONObject() {
    constructor(json: String) : this()

    fun put(name: String, value: Boolean): JSONObject = TODO()

    fun put(name: String, value: Int): JSONObject = TODO()

    fun put(name: String, value: Long): JSONObject = TODO()

    fun put(name: String, value: Double): JSONObject = TODO()

    fun put(name: String, value: Any?): JSONObject = TODO()

    fun getString(name: String): String = TODO()

    fun toString(indent: Int): String = TODO()

    companion object {
        @JvmField val NULL: Any = Any()
    }
}

class JSONArray(values: Collection<*>)
