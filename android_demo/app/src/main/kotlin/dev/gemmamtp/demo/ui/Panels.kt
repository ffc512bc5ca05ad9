package dev.gemmamtp.demo.ui

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.text.KeyboardOptions
import androidx.compose.foundation.verticalScroll
import androidx.compose.material3.Button
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Switch
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.text.input.KeyboardType
import androidx.compose.ui.unit.dp
import dev.gemmamtp.demo.R
import dev.gemmamtp.demo.bench.Comparison
import dev.gemmamtp.demo.bench.Measurement

/** Bundle, MTP, GPU and context; all of them are decided when the engine is made. */
@Composable
fun LoadPanel(state: DemoState, model: DemoViewModel, onPick: () -> Unit) {
    val bundle = state.bundle
    val settings = state.settings
    Column(Modifier.verticalScroll(rememberScrollState()), verticalArrangement = Arrangement.spacedBy(8.dp)) {
        Text(stringResource(R.string.bundle), style = MaterialTheme.typography.titleMedium)
        Text(bundle?.file?.name ?: "–")
        OutlinedButton(onClick = onPick, enabled = state.work == Work.NONE) { Text(stringResource(R.string.pick)) }
        if (bundle == null) return@Column
        if (bundle.drafts) {
            Choice(stringResource(R.string.mtp), settings.mtp) { model.choose(settings.copy(mtp = it)) }
        } else {
            Text(stringResource(R.string.no_drafter))
        }
        Choice(stringResource(R.string.gpu), settings.gpu) { model.choose(settings.copy(gpu = it)) }
        OutlinedTextField(
            value = settings.context?.toString() ?: "",
            onValueChange = { typed -> model.choose(settings.copy(context = typed.toIntOrNull()?.takeIf { it > 0 })) },
            label = { Text(stringResource(R.string.context, bundle.statedContext)) },
            keyboardOptions = KeyboardOptions(keyboardType = KeyboardType.Number),
        )
        Button(onClick = { model.load() }, enabled = state.work == Work.NONE) {
            Text(stringResource(if (state.work == Work.LOADING) R.string.loading else R.string.load))
        }
        if (state.mayInsist) OutlinedButton(onClick = { model.load(insisting = true) }) { Text(stringResource(R.string.insist)) }
    }
}

@Composable
private fun Choice(label: String, on: Boolean, onChange: (Boolean) -> Unit) {
    Row(
        modifier = Modifier.fillMaxWidth(),
        horizontalArrangement = Arrangement.SpaceBetween,
        verticalAlignment = Alignment.CenterVertically,
    ) {
        Text(label)
        Switch(checked = on, onCheckedChange = onChange)
    }
}

/** One prompt with MTP off and on. */
@Composable
fun ComparisonPanel(found: Comparison) {
    Column(verticalArrangement = Arrangement.spacedBy(8.dp)) {
        Text(stringResource(R.string.result_ratio, found.ratio), style = MaterialTheme.typography.titleMedium)
        Text(stringResource(if (found.equal) R.string.texts_equal else R.string.texts_differ))
        Side(stringResource(R.string.result_off), found.off)
        Side(stringResource(R.string.result_on), found.on)
    }
}

@Composable
private fun Side(label: String, found: Measurement) {
    Text(label, style = MaterialTheme.typography.titleSmall)
    Text(stringResource(R.string.result_speed, found.tokensPerSecond, found.firstToken, found.tokens))
    Text(stringResource(R.string.result_memory, found.memoryMiB))
    Text(found.text)
}
