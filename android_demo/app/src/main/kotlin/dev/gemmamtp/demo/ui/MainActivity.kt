package dev.gemmamtp.demo.ui

import android.os.Bundle
import androidx.activity.ComponentActivity
import androidx.activity.compose.rememberLauncherForActivityResult
import androidx.activity.compose.setContent
import androidx.activity.enableEdgeToEdge
import androidx.activity.result.contract.ActivityResultContracts
import androidx.activity.viewModels
import androidx.compose.material3.MaterialTheme
import androidx.compose.runtime.getValue
import androidx.lifecycle.compose.collectAsStateWithLifecycle

class MainActivity : ComponentActivity() {
    private val model: DemoViewModel by viewModels()

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        enableEdgeToEdge()
        if (model.state.value.bundle == null) model.look()
        setContent {
            MaterialTheme {
                val state by model.state.collectAsStateWithLifecycle()
                // The picker hands over one file that the person chose, so no storage permission is asked for.
                val picker =
                    rememberLauncherForActivityResult(ActivityResultContracts.OpenDocument()) { file -> file?.let(model::look) }
                DemoScreen(state, model, onPick = { picker.launch(arrayOf("*/*")) })
            }
        }
    }
}
