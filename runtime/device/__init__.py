"""A bundle on a phone: through adb, by the bench program of android_demo, on LiteRT-LM's engine for Android."""
