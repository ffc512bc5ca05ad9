@file:Suppress("UNUSED_PARAMETER", "unused")

package androidx.compose.stubs

//: androidx.compose.runtime
@Retention(AnnotationRetention.BINARY)
@Target(AnnotationTarget.FUNCTION, AnnotationTarget.TYPE, AnnotationTarget.TYPE_PARAMETER, AnnotationTarget.PROPERTY_GETTER)
annotation class Composable

interface State<out T> {
    val value: T
}

interface MutableState<T> : State<T> {
    override var value: T
}

operator fun <T> State<T>.getValue(thisObj: Any?, property: kotlin.reflect.KProperty<*>): T = value

operator fun <T> MutableState<T>.setValue(thisObj: Any?, property: kotlin.reflect.KProperty<*>, value: T) {
    this.value = value
}

fun <T> mutableStateOf(value: T): MutableState<T> = TODO()

@Composable fun LaunchedEffect(key1: Any?, block: suspend kotlinx.coroutines.CoroutineScope.() -> Unit): Unit = TODO()
//: androidx.compose.runtime.saveable
@androidx.compose.runtime.Composable fun <T : Any> rememberSaveable(vararg inputs: Any?, init: () -> T): T = TODO()
//: androidx.compose.ui
interface Modifier {
    companion object : Modifier
}

interface Alignment {
    interface Vertical

    companion object {
        val CenterVertically: Vertical
            get() = TODO()
    }
}
//: androidx.compose.ui.graphics
class Color {
    companion object {
        val Unspecified: Color
            get() = TODO()
    }
}
//: androidx.compose.ui.text
class TextStyle
//: androidx.compose.ui.unit
class Dp

val Int.dp: Dp
    get() = TODO()
//: androidx.compose.ui.text.input
class KeyboardType private constructor() {
    companion object {
        val Number: KeyboardType
            get() = TODO()
    }
}
//: androidx.compose.ui.res
@androidx.compose.runtime.Composable fun stringResource(id: Int): String = TODO()

@androidx.compose.runtime.Composable fun stringResource(id: Int, vararg formatArgs: Any): String = TODO()
//: androidx.compose.foundation.layout
object Arrangement {
    interface Horizontal

    interface Vertical

    interface HorizontalOrVertical : Horizontal, Vertical

    val SpaceBetween: HorizontalOrVertical
        get() = TODO()

    fun spacedBy(space: androidx.compose.ui.unit.Dp): HorizontalOrVertical = TODO()
}

interface ColumnScope {
    fun androidx.compose.ui.Modifier.weight(weight: Float, fill: Boolean = true): androidx.compose.ui.Modifier
}

interface RowScope

fun androidx.compose.ui.Modifier.fillMaxSize(fraction: Float = 1f): androidx.compose.ui.Modifier = TODO()

fun androidx.compose.ui.Modifier.fillMaxWidth(fraction: Float = 1f): androidx.compose.ui.Modifier = TODO()

fun androidx.compose.ui.Modifier.padding(all: androidx.compose.ui.unit.Dp): androidx.compose.ui.Modifier = TODO()

fun androidx.compose.ui.Modifier.safeDrawingPadding(): androidx.compose.ui.Modifier = TODO()

@androidx.compose.runtime.Composable
fun Column(
    modifier: androidx.compose.ui.Modifier = androidx.compose.ui.Modifier,
    verticalArrangement: Arrangement.Vertical = TODO(),
    content: @androidx.compose.runtime.Composable ColumnScope.() -> Unit,
): Unit = TODO()

@androidx.compose.runtime.Composable
fun Row(
    modifier: androidx.compose.ui.Modifier = androidx.compose.ui.Modifier,
    horizontalArrangement: Arrangement.Horizontal = TODO(),
    verticalAlignment: androidx.compose.ui.Alignment.Vertical = TODO(),
    content: @androidx.compose.runtime.Composable RowScope.() -> Unit,
): Unit = TODO()
//: androidx.compose.foundation
class ScrollState

@androidx.compose.runtime.Composable fun rememberScrollState(initial: Int = 0): ScrollState = TODO()

fun androidx.compose.ui.Modifier.verticalScroll(state: ScrollState, enabled: Boolean = true): androidx.compose.ui.Modifier = TODO()
//: androidx.compose.foundation.text
class KeyboardOptions(val keyboardType: androidx.compose.ui.text.input.KeyboardType = TODO())
//: androidx.compose.foundation.lazy
class LazyListState {
    suspend fun scrollToItem(index: Int, scrollOffset: Int = 0): Unit = TODO()
}

@androidx.compose.runtime.Composable fun rememberLazyListState(): LazyListState = TODO()

interface LazyItemScope

interface LazyListScope {
    fun item(key: Any? = null, contentType: Any? = null, content: @androidx.compose.runtime.Composable LazyItemScope.() -> Unit)
}

fun <T> LazyListScope.items(
    items: List<T>,
    itemContent: @androidx.compose.runtime.Composable LazyItemScope.(item: T) -> Unit,
): Unit = TODO()

@androidx.compose.runtime.Composable
fun LazyColumn(
    modifier: androidx.compose.ui.Modifier = androidx.compose.ui.Modifier,
    state: LazyListState = TODO(),
    verticalArrangement: androidx.compose.foundation.layout.Arrangement.Vertical = TODO(),
    content: LazyListScope.() -> Unit,
): Unit = TODO()
//: androidx.compose.material3
class ColorScheme {
    val primary: androidx.compose.ui.graphics.Color
        get() = TODO()
    val onSurface: androidx.compose.ui.graphics.Color
        get() = TODO()
    val error: androidx.compose.ui.graphics.Color
        get() = TODO()
}

class Typography {
    val titleMedium: androidx.compose.ui.text.TextStyle
        get() = TODO()
    val titleSmall: androidx.compose.ui.text.TextStyle
        get() = TODO()
}

object MaterialTheme {
    val colorScheme: ColorScheme
        @androidx.compose.runtime.Composable get() = TODO()
    val typography: Typography
        @androidx.compose.runtime.Composable get() = TODO()
}

@androidx.compose.runtime.Composable
fun MaterialTheme(content: @androidx.compose.runtime.Composable () -> Unit): Unit = TODO()

@androidx.compose.runtime.Composable
fun Surface(
    modifier: androidx.compose.ui.Modifier = androidx.compose.ui.Modifier,
    content: @androidx.compose.runtime.Composable () -> Unit,
): Unit = TODO()

@androidx.compose.runtime.Composable
fun Text(
    text: String,
    modifier: androidx.compose.ui.Modifier = androidx.compose.ui.Modifier,
    color: androidx.compose.ui.graphics.Color = androidx.compose.ui.graphics.Color.Unspecified,
    style: androidx.compose.ui.text.TextStyle = TODO(),
): Unit = TODO()

@androidx.compose.runtime.Composable
fun Button(
    onClick: () -> Unit,
    modifier: androidx.compose.ui.Modifier = androidx.compose.ui.Modifier,
    enabled: Boolean = true,
    content: @androidx.compose.runtime.Composable androidx.compose.foundation.layout.RowScope.() -> Unit,
): Unit = TODO()

@androidx.compose.runtime.Composable
fun OutlinedButton(
    onClick: () -> Unit,
    modifier: androidx.compose.ui.Modifier = androidx.compose.ui.Modifier,
    enabled: Boolean = true,
    content: @androidx.compose.runtime.Composable androidx.compose.foundation.layout.RowScope.() -> Unit,
): Unit = TODO()

@androidx.compose.runtime.Composable
fun OutlinedTextField(
    value: String,
    onValueChange: (String) -> Unit,
    modifier: androidx.compose.ui.Modifier = androidx.compose.ui.Modifier,
    label: @androidx.compose.runtime.Composable (() -> Unit)? = null,
    keyboardOptions: androidx.compose.foundation.text.KeyboardOptions = TODO(),
): Unit = TODO()

@androidx.compose.runtime.Composable
fun Switch(checked: Boolean, onCheckedChange: ((Boolean) -> Unit)?, modifier: androidx.compose.ui.Modifier = androidx.compose.ui.Modifier): Unit =
    TODO()

@androidx.compose.runtime.Composable
fun LinearProgressIndicator(modifier: androidx.compose.ui.Modifier = androidx.compose.ui.Modifier): Unit = TODO()
