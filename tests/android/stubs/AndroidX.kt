@file:Suppress("UNUSED_PARAMETER", "unused")

package androidx.stubs

//: androidx.lifecycle
interface LifecycleOwner

abstract class ViewModel {
    protected open fun onCleared(): Unit = TODO()
}

abstract class AndroidViewModel(application: android.app.Application) : ViewModel()

val ViewModel.viewModelScope: kotlinx.coroutines.CoroutineScope
    get() = TODO()
val LifecycleOwner.lifecycleScope: kotlinx.coroutines.CoroutineScope
    get() = TODO()
//: androidx.lifecycle.compose
@androidx.compose.runtime.Composable
fun <T> kotlinx.coroutines.flow.StateFlow<T>.collectAsStateWithLifecycle(): androidx.compose.runtime.State<T> = TODO()
//: androidx.activity
abstract class ComponentActivity : android.app.Activity(), androidx.lifecycle.LifecycleOwner

fun ComponentActivity.enableEdgeToEdge(): Unit = TODO()

inline fun <reified VM : androidx.lifecycle.ViewModel> ComponentActivity.viewModels(): Lazy<VM> = TODO()
//: androidx.activity.result.contract
abstract class ActivityResultContract<I, O>

class ActivityResultContracts private constructor() {
    open class OpenDocument : ActivityResultContract<Array<String>, android.net.Uri?>()
}
//: androidx.activity.compose
class ManagedActivityResultLauncher<I, O> {
    fun launch(input: I): Unit = TODO()
}

@androidx.compose.runtime.Composable
fun <I, O> rememberLauncherForActivityResult(
    contract: androidx.activity.result.contract.ActivityResultContract<I, O>,
    onResult: (O) -> Unit,
): ManagedActivityResultLauncher<I, O> = TODO()

fun androidx.activity.ComponentActivity.setContent(content: @androidx.compose.runtime.Composable () -> Unit): Unit = TODO()
