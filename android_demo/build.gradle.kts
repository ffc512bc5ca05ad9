buildscript {
    dependencies {
        // The Android plugin compiles Kotlin itself, with an older compiler than litertlm-android's metadata asks for.
        classpath("org.jetbrains.kotlin:kotlin-gradle-plugin:${libs.versions.kotlin.get()}")
    }
}

plugins {
    alias(libs.plugins.android.application) apply false
    alias(libs.plugins.kotlin.compose) apply false
}
