package dev.gemmamtp.demo.bench

import org.json.JSONArray
import org.json.JSONObject

/** The same names as the bench program's lines have. */
fun Comparison.toJson(number: Int, repetition: Int): JSONObject =
    JSONObject()
        .put("prompt", number)
        .put("repetition", repetition)
        .put("equal", equal)
        .put("off", off.toJson())
        .put("on", on.toJson())

private fun Measurement.toJson(): JSONObject =
    JSONObject()
        .put("text", text)
        .put("tokens", tokens)
        .put("tokens_per_second", tokensPerSecond)
        .put("time_to_first_token", firstToken)
        .put("seconds", seconds)
        .put("memory_mib", memoryMiB)

/** Prompts of a JSON-lines file: `{"prompt": "..."}` a line, a user's message each. */
fun readPrompts(lines: List<String>): List<String> =
    lines.filter(String::isNotBlank).map { line -> JSONObject(line).getString("prompt") }

/** What a whole run found: its settings, its lines, or why it ended. */
fun runToJson(settings: JSONObject, lines: List<JSONObject>, failure: String?): JSONObject =
    JSONObject().put("settings", settings).put("answers", JSONArray(lines)).put("failure", failure ?: JSONObject.NULL)
