/*
 * The launcher packs the disk of its machine for a save, because it runs already, and the start of a program takes
 * longer than the work. Nothing in the box can reach it, or make what it packs: a file system that the host mounts
 * again is only ever written by the host.
 *
 * Each connection is one order, a line, whatever it says. The answer is a line, `ok` or `error: …`, and then the file
 * `disk.tar` in the machine's folder is whole.
 */
#ifndef FIRKIN_BOX_PACKER_H
#define FIRKIN_BOX_PACKER_H

#include <poll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include "../jail/launcher.h"
#include "layer_archive.h"

enum { PACKER_LISTENER = 3, PACKER_IMAGE, PACKER_FOLDER, PACKER_END };

static const char image_name[] = "disk.ext4", packed_name[] = "disk.tar";

/* Makes the image that a machine starts with from a packed one. */
static void unpack_disk(const char *packed, const char *disk) {
  int archive = open(packed, O_RDONLY | O_CLOEXEC);
  if (archive < 0) fail("open %s", packed);
  int image = open(disk, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (image < 0) fail("create %s", disk);
  const char *problem = read_archive(archive, image, image_name);
  if (problem) fail("%s cannot be unpacked, %s", packed, problem);
  close(archive);
  close(image);
}

/* What the launcher needs to pack: opened before the box is made, so that nothing can fail once it runs. */
struct packer {
  int listener, image, folder;
};

static struct packer open_packer(const char *folder, const char *disk, int listener) {
  struct packer packer = {listener, open(disk, O_RDONLY | O_CLOEXEC), open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (packer.image < 0 || packer.folder < 0) fail("open %s", folder);
  return packer;
}

/* Puts the descriptors in their places, where the box's were. They have others, so this does not fail. */
static void hold_packer(const struct packer *packer) {
  dup3(packer->listener, PACKER_LISTENER, O_CLOEXEC);
  dup3(packer->image, PACKER_IMAGE, O_CLOEXEC);
  dup3(packer->folder, PACKER_FOLDER, O_CLOEXEC);
}

static void pack_for_one(void) {
  int client = accept4(PACKER_LISTENER, NULL, NULL, SOCK_CLOEXEC);
  if (client < 0) return;
  char line[16], answer[256] = "ok\n";
  struct timeval patience = {.tv_sec = 5};
  setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (recv(client, line, sizeof line, 0) <= 0) {
    close(client);
    return;
  }
  int archive = openat(PACKER_FOLDER, packed_name, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
  const char *problem = archive < 0 ? "its file cannot be made" : write_archive(PACKER_IMAGE, archive, image_name);
  if (problem) snprintf(answer, sizeof answer, "error: %s: %s\n", problem, strerror(errno));
  if (archive >= 0) close(archive);
  if (problem) unlinkat(PACKER_FOLDER, packed_name, 0);
  /* A daemon that is gone wants no answer. */
  send(client, answer, strlen(answer), MSG_NOSIGNAL);
  close(client);
}

/* Packs for whoever asks, until the child ends, and ends like it. */
static _Noreturn void pack_until_end(pid_t child) {
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  sigprocmask(SIG_BLOCK, &children, NULL);
  int ends = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
  if (ends < 0) _exit(125);
  for (;;) {
    int ended;
    if (waitpid(child, &ended, WNOHANG) == child) exit_like(ended);
    struct pollfd polls[] = {{.fd = ends, .events = POLLIN}, {.fd = PACKER_LISTENER, .events = POLLIN}};
    poll(polls, 2, -1);
    struct signalfd_siginfo ignored;
    while (read(ends, &ignored, sizeof ignored) > 0) {}
    if (polls[1].revents) pack_for_one();
  }
}

#endif
