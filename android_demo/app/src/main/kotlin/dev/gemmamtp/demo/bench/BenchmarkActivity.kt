package dev.gemmamtp.demo.bench

import android.os.Bundle
import android.view.WindowManager
import androidx.activity.ComponentActivity
import androidx.activity.viewModels
import androidx.lifecycle.lifecycleScope
import kotlinx.coroutines.launch

/**
 * Started by `adb shell am start -n dev.gemmamtp.demo/.bench.BenchmarkActivity`, with the extras that [Request] has. Writes
 * benchmark.json into the app's folder and closes. It shows nothing, but keeps the screen on: cores slow down without.
 */
class BenchmarkActivity : ComponentActivity() {
    private val benchmark: BenchmarkViewModel by viewModels()

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        val running = benchmark.run(Request.of(intent))
        lifecycleScope.launch {
            running.join()
            finish()
        }
    }
}
