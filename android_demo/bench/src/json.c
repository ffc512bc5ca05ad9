#include "json.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of the UTF-8 character at `text`, 0 if there is none: overlong forms, surrogates and ends are refused. */
static int utf8_length(const unsigned char *text) {
  static const struct {
    unsigned char mask, lead;
    unsigned least;
  } forms[] = {{0x80, 0x00, 0}, {0xE0, 0xC0, 0x80}, {0xF0, 0xE0, 0x800}, {0xF8, 0xF0, 0x10000}};
  for (int length = 1; length <= 4; length++) {
    if ((text[0] & forms[length - 1].mask) != forms[length - 1].lead) continue;
    unsigned code = text[0] & (unsigned char)~forms[length - 1].mask;
    for (int i = 1; i < length; i++) {
      if ((text[i] & 0xC0) != 0x80) return 0;
      code = code << 6 | (text[i] & 0x3F);
    }
    bool surrogate = code >= 0xD800 && code <= 0xDFFF;
    return code < forms[length - 1].least || surrogate || code > 0x10FFFF ? 0 : length;
  }
  return 0;
}

void json_write_string(FILE *out, const char *text) {
  fputc('"', out);
  for (const unsigned char *at = (const unsigned char *)text; *at;) {
    int length = utf8_length(at);
    if (!length) {
      fputs("\\ufffd", out);
      at++;
    } else if (*at == '"' || *at == '\\') {
      fprintf(out, "\\%c", *at++);
    } else if (*at < 0x20) {
      fprintf(out, "\\u%04x", *at++);
    } else {
      fwrite(at, 1, (size_t)length, out);
      at += length;
    }
  }
  fputc('"', out);
}

const char *json_skip_space(const char *at) {
  return at + strspn(at, " \t\r\n");
}

/* The four hexadecimal digits at `at`, -1 if they are none. */
static long hex4(const char *at) {
  char digits[5] = {0};
  if (strspn(at, "0123456789abcdefABCDEF") < 4) return -1;
  memcpy(digits, at, 4);
  return strtol(digits, NULL, 16);
}

static char *put_utf8(char *out, unsigned long code) {
  if (code < 0x80) {
    *out++ = (char)code;
  } else if (code < 0x800) {
    *out++ = (char)(0xC0 | code >> 6);
    *out++ = (char)(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    *out++ = (char)(0xE0 | code >> 12);
    *out++ = (char)(0x80 | (code >> 6 & 0x3F));
    *out++ = (char)(0x80 | (code & 0x3F));
  } else {
    *out++ = (char)(0xF0 | code >> 18);
    *out++ = (char)(0x80 | (code >> 12 & 0x3F));
    *out++ = (char)(0x80 | (code >> 6 & 0x3F));
    *out++ = (char)(0x80 | (code & 0x3F));
  }
  return out;
}

/* The character behind `\u` at `*at`, of two escapes where it is a pair of surrogates; moves `*at`; 0 if it is none. */
static unsigned long read_escaped(const char **at) {
  long first = hex4(*at);
  if (first < 0 || (first >= 0xDC00 && first <= 0xDFFF)) return 0;
  *at += 4;
  if (first < 0xD800 || first > 0xDBFF) return (unsigned long)first;
  long second = strncmp(*at, "\\u", 2) == 0 ? hex4(*at + 2) : -1;
  if (second < 0xDC00 || second > 0xDFFF) return 0;
  *at += 6;
  return 0x10000 + (((unsigned long)first - 0xD800) << 10) + ((unsigned long)second - 0xDC00);
}

char *json_read_string(const char **at) {
  static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
  const char *in = *at;
  if (*in++ != '"') return NULL;
  char *text = malloc(strlen(in) + 1), *out = text; /* No escape is shorter than what it stands for. */
  while (text && *in != '"') {
    if ((unsigned char)*in < 0x20) goto wrong; /* The end among them. */
    if (*in != '\\') {
      *out++ = *in++;
      continue;
    }
    const char *letter = in[1] ? strchr(letters, in[1]) : NULL;
    if (letter) {
      *out++ = meanings[letter - letters];
      in += 2;
    } else {
      if (in[1] != 'u') goto wrong;
      in += 2;
      unsigned long code = read_escaped(&in);
      if (!code) goto wrong;
      out = put_utf8(out, code);
    }
  }
  if (!text) return NULL;
  *out = 0;
  *at = in + 1;
  return text;
wrong:
  free(text);
  return NULL;
}
