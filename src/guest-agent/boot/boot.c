/* The boot. A small step that fails is reported on the console and passed over. */
#include "boot/boot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <sys/io.h>
#endif

#include "base/small_file.h"
#include "boot/console.h"
#include "boot/hostname.h"
#include "boot/kernel_options.h"
#include "boot/network.h"

enum { ROOT_WAIT_MS = 30000, ROOT_RETRY_MS = 10, MODULE_COMPRESSED = 4, LISTS_BYTES = 65536 };

static void __attribute__((noreturn)) give_up(const char *what) {
  say("%s: %s; powering off", what, strerror(errno));
  sync();
  reboot(RB_POWER_OFF);
  reboot(RB_AUTOBOOT);
  for (;;) pause();
}

static bool mount_on(const char *type, const char *path, unsigned long flags, const char *options) {
  mkdir(path, 0755);
  if (mount(type, path, type, flags, options) == 0 || errno == EBUSY) return true;
  say("cannot mount %s on %s: %s", type, path, strerror(errno));
  return false;
}

/* A kernel without /dev/console in its initramfs starts init without descriptors. */
static void open_console(void) {
  if (fcntl(2, F_GETFD) >= 0) return;
  int fd = open("/dev/console", O_RDWR | O_NOCTTY);
  if (fd < 0) fd = open("/dev/null", O_RDWR);
  for (int i = 0; i < 3; i++) {
    if (fd >= 0 && fd != i) dup2(fd, i);
  }
  if (fd > 2) close(fd);
}

static void load_module(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  const char *dot = strrchr(path, '.');
  int flags = dot != NULL && strcmp(dot, ".ko") == 0 ? 0 : MODULE_COMPRESSED;
  bool loaded = fd >= 0 && (syscall(SYS_finit_module, fd, "", flags) == 0 || errno == EEXIST);
  if (!loaded) say("cannot load %s: %s", path, strerror(errno));
  if (fd >= 0) close(fd);
}

static void set_kernel(const char *path, const char *value) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  bool good = fd >= 0 && write(fd, value, strlen(value)) > 0;
  if (!good) say("cannot set %s: %s", path, strerror(errno));
  if (fd >= 0) close(fd);
}

static void load_modules(void) {
  static char list[LISTS_BYTES];
  char *rest = list;
  if (get_file("/modules.list", list, sizeof list) < 0) return;
  for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
    if (line[0] == '/') load_module(line);
  }
}

static void sleep_ms(long ms) {
  struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
  nanosleep(&time, NULL);
}

/*
 * Waits until the disk is there, and mounts it. `noauto_da_alloc`: a file that replaces another need not be on the disk
 * at once, because everything that outlives the machine is synced before. Writing it at once is most of the cost of a
 * new host name.
 */
static void mount_root(const char *device) {
  mkdir("/newroot", 0755);
  for (int waited = 0;; waited += ROOT_RETRY_MS) {
    if (mount(device, "/newroot", "ext4", MS_NOATIME | MS_LAZYTIME, "noauto_da_alloc") == 0) return;
    bool is_missing = errno == ENOENT || errno == ENXIO || errno == ENODEV;
    if (!is_missing || waited >= ROOT_WAIT_MS) give_up("cannot mount the root disk");
    sleep_ms(ROOT_RETRY_MS);
  }
}

/* Frees the memory of the initramfs. Its tree is shallow. Other file systems in it are not entered. */
static void remove_tree(int folder, dev_t device) {
  DIR *dir = fdopendir(folder);
  const struct dirent *entry;
  while (dir != NULL && (entry = readdir(dir)) != NULL) {
    struct stat info;
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    if (fstatat(folder, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 || info.st_dev != device) continue;
    if (S_ISDIR(info.st_mode)) {
      int child = openat(folder, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
      if (child >= 0) remove_tree(child, device);
    }
    unlinkat(folder, entry->d_name, S_ISDIR(info.st_mode) ? AT_REMOVEDIR : 0);
  }
  if (dir != NULL) closedir(dir);
}

static void move_mount_to(const char *from, const char *to) {
  mkdir(to, 0755);
  if (mount(from, to, NULL, MS_MOVE, NULL) != 0) say("cannot move %s: %s", from, strerror(errno));
}

static void switch_root(void) {
  struct stat info;
  int old_root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  move_mount_to("/dev", "/newroot/dev");
  move_mount_to("/proc", "/newroot/proc");
  move_mount_to("/sys", "/newroot/sys");
  bool switched = chdir("/newroot") == 0 && mount(".", "/", NULL, MS_MOVE, NULL) == 0 && chroot(".") == 0;
  if (!switched || chdir("/") != 0) give_up("cannot switch to the root disk");
  if (old_root >= 0 && fstat(old_root, &info) == 0) remove_tree(old_root, info.st_dev);
}

static void link_in_dev(const char *target, const char *path) {
  if (symlink(target, path) != 0 && errno != EEXIST) say("cannot make %s: %s", path, strerror(errno));
}

static void mount_rest(void) {
  mount_on("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666");
  mount_on("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
  mount_on("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755");
  mount_on("cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
  if (mkdir("/run/lock", 0755) == 0) chmod("/run/lock", 01777);
  link_in_dev("/proc/self/fd", "/dev/fd");
  link_in_dev("/proc/self/fd/0", "/dev/stdin");
  link_in_dev("/proc/self/fd/1", "/dev/stdout");
  link_in_dev("/proc/self/fd/2", "/dev/stderr");
}

/*
 * Devices that every user may open, as on a system with udev. Opening one whose module is not loaded loads it. Their
 * numbers are the kernel's own.
 */
static void make_devices(void) {
  static const struct {
    const char *path;
    mode_t mode;
    unsigned major, minor;
  } devices[] = {{"/dev/fuse", 0666, 10, 229}, {"/dev/net/tun", 0666, 10, 200}, {"/dev/loop-control", 0660, 10, 237}};
  mkdir("/dev/net", 0755);
  for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
    mknod(devices[i].path, S_IFCHR, makedev(devices[i].major, devices[i].minor));
    if (chmod(devices[i].path, devices[i].mode) != 0) say("cannot make %s: %s", devices[i].path, strerror(errno));
  }
}

/* Makes room for many watchers. The limits count per user, and all watchers of the agent are root's. */
static void raise_limits(void) {
  set_kernel("/proc/sys/fs/inotify/max_user_instances", "8192");
  set_kernel("/proc/sys/fs/inotify/max_user_watches", "1048576");
}

/*
 * Channel 0 of the interval timer ticks 36 times a second from power on, without any use. Kernels before 6.12 leave it
 * ticking, and every tick is work for the host. A count in mode 0 ends for good; the kernel's own pit_shutdown does the
 * same.
 */
static void stop_interval_timer(void) {
#if defined(__x86_64__)
  enum { CHANNEL_0 = 0x40, MODE = 0x43, CHANNEL_0_IN_MODE_0 = 0x30 };
  if (ioperm(CHANNEL_0, MODE - CHANNEL_0 + 1, 1) != 0) {
    say("cannot stop the interval timer: %s", strerror(errno));
    return;
  }
  outb(CHANNEL_0_IN_MODE_0, MODE);
  outb(0, CHANNEL_0);
  outb(0, CHANNEL_0);
  ioperm(CHANNEL_0, MODE - CHANNEL_0 + 1, 0);
#endif
}

/* The kernel compacts memory when a program needs a large piece, not twice a second in case a program might. */
static void rest_when_idle(void) {
  stop_interval_timer();
  set_kernel("/proc/sys/vm/compaction_proactiveness", "0");
}

static void set_name(void) {
  char name[HOSTNAME_BYTES + 1];
  if (get_file("/etc/hostname", name, sizeof name) < 0) return;
  name[strcspn(name, "\n")] = '\0';
  if (hostname_is_valid(name)) sethostname(name, strlen(name));
}

void boot_gvisor(const char *dns) {
  umask(022);
  if (mkdir("/run/lock", 0755) == 0) chmod("/run/lock", 01777);
  set_name();
  if (dns != NULL && !network_write_resolver(dns)) say("cannot write /etc/resolv.conf: %s", strerror(errno));
}

void boot(void) {
  char device[256], net[256];
  umask(022);
  mount_on("devtmpfs", "/dev", MS_NOSUID, "mode=755");
  open_console();
  mount_on("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
  mount_on("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
  reboot(RB_DISABLE_CAD);
  /* Sends interrupts of devices whose drivers are loaded from now on to the first processor, where the agent stays. */
  set_kernel("/proc/irq/default_smp_affinity", "1");
  load_modules();
  if (!kernel_option("firkin.root", device, sizeof device)) strcpy(device, "/dev/vda");
  mount_root(device);
  switch_root();
  mount_rest();
  make_devices();
  raise_limits();
  rest_when_idle();
  set_name();
  network_start_loopback();
  if (!kernel_option("firkin.net", net, sizeof net)) return;
  /* There is no router for IPv6. Asking for one would wake an idle machine for ever. */
  set_kernel("/proc/sys/net/ipv6/conf/eth0/router_solicitations", "0");
  network_start(net);
}
