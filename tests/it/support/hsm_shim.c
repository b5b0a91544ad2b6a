/*
 * A PKCS#11 module in front of the real one (SHIM_MODULE), that does as files in a directory (SHIM_DIR) say:
 *
 *   slow        C_Sign takes 300 ms longer
 *   hang        every call that can take long waits until the file is gone
 *   wrong-pin   the PIN that is given is changed on its way
 *   final-try   the token says that one try of the PIN is left
 *   weak        keys that are made may be taken out
 *   keeps       nothing is destroyed
 *
 * Each such call is written into the file `calls` there, by its name. Everything else is the real module's.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long word;
typedef word (*call)(word, word, word, word, word, word);
typedef word (*long_call)(word, word, word, word, word, word, word, word);

/* CK_FUNCTION_LIST of PKCS#11 2.40: a version and 68 functions. */
struct list {
  unsigned char version[2];
  call f[68];
};

static struct list ours;
static struct list *real;

static const char *in_dir(const char *name, char *path, size_t size) {
  snprintf(path, size, "%s/%s", getenv("SHIM_DIR"), name);
  return path;
}

static int is_there(const char *name) {
  char path[4096];
  return access(in_dir(name, path, sizeof path), F_OK) == 0;
}

static void enter(const char *name) {
  char path[4096], line[64];
  int file = open(in_dir("calls", path, sizeof path), O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (file >= 0) {
    snprintf(line, sizeof line, "%s\n", name);
    if (write(file, line, strlen(line)) < 0) abort();
    close(file);
  }
  while (is_there("hang")) {
    struct timespec moment = {0, 5 * 1000 * 1000};
    nanosleep(&moment, NULL);
  }
}

/* None of these has more than six arguments, and each of those is a word. */
#define GATE(number, name)                                               \
  static word name(word a, word b, word c, word d, word e, word f) {     \
    enter(#name);                                                        \
    return real->f[number](a, b, c, d, e, f);                            \
  }

GATE(0, C_Initialize)
GATE(1, C_Finalize)
GATE(4, C_GetSlotList)
GATE(12, C_OpenSession)
GATE(13, C_CloseSession)
GATE(15, C_GetSessionInfo)
GATE(26, C_FindObjectsInit)
GATE(30, C_Encrypt)
GATE(34, C_Decrypt)

static word C_Sign(word session, word data, word length, word signature, word signature_length, word f) {
  enter("C_Sign");
  struct timespec while_slow = {0, 300 * 1000 * 1000};
  if (is_there("slow")) nanosleep(&while_slow, NULL);
  return real->f[43](session, data, length, signature, signature_length, f);
}

/* CK_TOKEN_INFO: label 32, manufacturer 32, model 16, serial 16, then the flags. */
static word C_GetTokenInfo(word slot, word info, word c, word d, word e, word f) {
  enter("C_GetTokenInfo");
  word answer = real->f[6](slot, info, c, d, e, f);
  if (answer == 0 && is_there("final-try")) *(word *)(info + 96) |= 0x20000;
  return answer;
}

static word C_Login(word session, word user, word pin, word length, word e, word f) {
  enter("C_Login");
  char other[256];
  if (is_there("wrong-pin") && length > 0 && length < sizeof other) {
    memcpy(other, (const char *)pin, length);
    other[0] ^= 1;
    pin = (word)other;
  }
  return real->f[18](session, user, pin, length, e, f);
}

static word C_DestroyObject(word session, word object, word c, word d, word e, word f) {
  enter("C_DestroyObject");
  return is_there("keeps") ? 0 : real->f[22](session, object, c, d, e, f);
}

struct attribute {
  word type;
  unsigned char *value;
  word length;
};

/* CKA_SENSITIVE, CKA_EXTRACTABLE */
static void weaken(struct attribute *to, word from, word count) {
  static unsigned char yes = 1, no = 0;
  memcpy(to, (const void *)from, count * sizeof *to);
  for (word i = 0; is_there("weak") && i < count; i++) {
    if (to[i].type == 0x103) to[i].value = &no;
    if (to[i].type == 0x162) to[i].value = &yes;
  }
}

static word C_GenerateKey(word session, word how, word template, word count, word key, word f) {
  enter("C_GenerateKey");
  struct attribute weak[32];
  if (count > 32) return 5;
  weaken(weak, template, count);
  return real->f[58](session, how, (word)weak, count, key, f);
}

static word C_GenerateKeyPair(word session, word how, word public, word publics, word private, word privates,
                              word public_key, word private_key) {
  enter("C_GenerateKeyPair");
  struct attribute weak[32];
  if (privates > 32) return 5;
  weaken(weak, private, privates);
  return ((long_call)real->f[59])(session, how, public, publics, (word)weak, privates, public_key, private_key);
}

word C_GetFunctionList(struct list **list) {
  if (real == NULL) {
    void *module = dlopen(getenv("SHIM_MODULE"), RTLD_NOW | RTLD_LOCAL);
    if (module == NULL) return 5;
    word (*get)(struct list **) = (word (*)(struct list **))dlsym(module, "C_GetFunctionList");
    if (get == NULL || get(&real) != 0) return 5;
    ours = *real;
    ours.f[0] = C_Initialize;
    ours.f[1] = C_Finalize;
    ours.f[4] = C_GetSlotList;
    ours.f[6] = C_GetTokenInfo;
    ours.f[12] = C_OpenSession;
    ours.f[13] = C_CloseSession;
    ours.f[15] = C_GetSessionInfo;
    ours.f[18] = C_Login;
    ours.f[22] = C_DestroyObject;
    ours.f[26] = C_FindObjectsInit;
    ours.f[30] = C_Encrypt;
    ours.f[34] = C_Decrypt;
    ours.f[43] = C_Sign;
    ours.f[58] = C_GenerateKey;
    ours.f[59] = (call)C_GenerateKeyPair;
  }
  *list = &ours;
  return 0;
}
