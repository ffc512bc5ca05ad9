package dev.gemmamtp.demo.engine

/** Whether version [needed], such as "0.18.1", is newer than [present]: numbers are compared, missing ones are 0. */
internal fun isNewer(needed: String, present: String): Boolean {
    val one = numbers(needed)
    val other = numbers(present)
    for (at in 0 until maxOf(one.size, other.size)) {
        val difference = one.getOrElse(at) { 0 } - other.getOrElse(at) { 0 }
        if (difference != 0) return difference > 0
    }
    return false
}

private fun numbers(version: String): List<Int> =
    version.removePrefix("v").substringBefore('-').split('.').map { it.toIntOrNull() ?: 0 }
