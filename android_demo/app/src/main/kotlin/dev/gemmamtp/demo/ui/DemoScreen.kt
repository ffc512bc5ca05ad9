package dev.gemmamtp.demo.ui

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.safeDrawingPadding
import androidx.compose.foundation.lazy.LazyColumn
import androidx.compose.foundation.lazy.items
import androidx.compose.foundation.lazy.rememberLazyListState
import androidx.compose.material3.Button
import androidx.compose.material3.LinearProgressIndicator
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Surface
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.LaunchedEffect
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.unit.dp
import dev.gemmamtp.demo.R

/** The whole app: what to load, then chat and comparison. */
@Composable
fun DemoScreen(state: DemoState, model: DemoViewModel, onPick: () -> Unit) {
    Surface(modifier = Modifier.fillMaxSize()) {
        Column(
            modifier = Modifier.safeDrawingPadding().padding(16.dp),
            verticalArrangement = Arrangement.spacedBy(8.dp),
        ) {
            state.problem?.let { Text(it, color = MaterialTheme.colorScheme.error) }
            if (state.work != Work.NONE) LinearProgressIndicator(modifier = Modifier.fillMaxWidth())
            if (state.loaded) {
                OutlinedButton(onClick = model::unload, enabled = state.work == Work.NONE) {
                    Text(stringResource(R.string.unload))
                }
                Answers(state, Modifier.weight(1f))
                Ask(state, model)
            } else {
                LoadPanel(state, model, onPick)
            }
        }
    }
}

@Composable
private fun Answers(state: DemoState, modifier: Modifier) {
    val list = rememberLazyListState()
    LaunchedEffect(state.turns.size) { if (state.turns.isNotEmpty()) list.scrollToItem(state.turns.lastIndex) }
    LazyColumn(modifier.fillMaxWidth(), list, verticalArrangement = Arrangement.spacedBy(8.dp)) {
        items(state.turns) { turn ->
            val color = if (turn.fromUser) MaterialTheme.colorScheme.primary else MaterialTheme.colorScheme.onSurface
            Text(turn.text, color = color)
        }
        state.comparison?.let { found -> item { ComparisonPanel(found) } }
    }
}

@Composable
private fun Ask(state: DemoState, model: DemoViewModel) {
    var message by rememberSaveable { mutableStateOf("") }
    OutlinedTextField(
        value = message,
        onValueChange = { message = it },
        label = { Text(stringResource(R.string.message)) },
        modifier = Modifier.fillMaxWidth(),
    )
    Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
        val ready = message.isNotBlank() && state.work == Work.NONE
        if (state.work == Work.ANSWERING) {
            Button(onClick = model::stop) { Text(stringResource(R.string.stop)) }
        } else {
            Button(onClick = { model.send(message) }, enabled = ready) { Text(stringResource(R.string.send)) }
        }
        if (state.settings.mtp) {
            OutlinedButton(onClick = { model.compareWith(message) }, enabled = ready) {
                Text(stringResource(R.string.compare))
            }
        }
    }
}
