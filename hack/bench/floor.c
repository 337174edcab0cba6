// The floor of `rtc run`: the least that makes a container of containerd's default specification and runs a program in it.
//
//     floor ROOTFS NAME PROGRAM [ARGUMENT]...
//
// The same namespaces, cgroups, mounts, devices and covered paths as a runtime makes, without a configuration to read and
// without state, limits, capabilities or anything else that makes a container safe.
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static char **arguments;
static const char *name;

static void check(int result, const char *what) {
	if (result < 0)
		err(125, "%s", what);
}

static void mount_at(const char *type, const char *target, unsigned long flags, const char *options) {
	mkdir(target, 0755);
	check(mount(type, target, type, flags, options), target);
}

static void device(const char *path, unsigned major, unsigned minor) {
	check(mknod(path, S_IFCHR | 0666, makedev(major, minor)), path);
}

static void cover(void) {
	const char *read_only[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"};
	const char *files[] = {"proc/kcore", "proc/keys", "proc/latency_stats", "proc/timer_list", "proc/sched_debug"};
	const char *directories[] = {"proc/acpi", "proc/asound", "proc/scsi", "sys/firmware"};
	// As with a runtime, a path that this kernel does not have needs no cover.
	for (size_t i = 0; i < sizeof(read_only) / sizeof(*read_only); i++)
		if (mount(read_only[i], read_only[i], NULL, MS_BIND | MS_REC, NULL) == 0)
			check(mount(NULL, read_only[i], NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL), read_only[i]);
	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++)
		mount("dev/null", files[i], NULL, MS_BIND, NULL);
	for (size_t i = 0; i < sizeof(directories) / sizeof(*directories); i++)
		mount("tmpfs", directories[i], "tmpfs", MS_RDONLY, NULL);
}

static _Noreturn void inside(void) {
	const unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	check(sethostname("floor", 5), "sethostname");
	check(mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL), "mount propagation");
	check(mount(arguments[1], arguments[1], NULL, MS_BIND | MS_REC, NULL), arguments[1]);
	check(chdir(arguments[1]), arguments[1]);
	mount_at("proc", "proc", safe, NULL);
	mount_at("tmpfs", "dev", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
	mount_at("devpts", "dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
	mount_at("tmpfs", "dev/shm", safe, "mode=1777,size=65536k");
	mount_at("mqueue", "dev/mqueue", safe, NULL);
	mount_at("sysfs", "sys", safe | MS_RDONLY, NULL);
	mount_at("tmpfs", "run", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
	device("dev/null", 1, 3);
	device("dev/zero", 1, 5);
	device("dev/full", 1, 7);
	device("dev/random", 1, 8);
	device("dev/urandom", 1, 9);
	device("dev/tty", 5, 0);
	check(symlink("/proc/self/fd", "dev/fd"), "dev/fd");
	check(symlink("/proc/self/fd/0", "dev/stdin"), "dev/stdin");
	check(symlink("/proc/self/fd/1", "dev/stdout"), "dev/stdout");
	check(symlink("/proc/self/fd/2", "dev/stderr"), "dev/stderr");
	check(symlink("pts/ptmx", "dev/ptmx"), "dev/ptmx");
	cover();
	check(syscall(SYS_pivot_root, ".", "."), "pivot_root");
	check(umount2(".", MNT_DETACH), "the old root");
	check(chdir("/"), "/");
	execv(arguments[3], arguments + 3);
	err(127, "%s", arguments[3]);
}

static void copy(int from, int to, const char *file) {
	char value[256];
	int source = openat(from, file, O_RDONLY | O_CLOEXEC);
	if (source < 0)
		return;
	int target = openat(to, file, O_WRONLY | O_CLOEXEC);
	check(target, file);
	check(write(target, value, read(source, value, sizeof value)), file);
	close(target);
	close(source);
}

static int make_cgroup(int hierarchy) {
	check(mkdirat(hierarchy, name, 0755), "make a cgroup");
	int cgroup = openat(hierarchy, name, O_DIRECTORY | O_CLOEXEC);
	check(cgroup, "open a cgroup");
	// A v1 cpuset starts empty, and takes nobody then.
	copy(hierarchy, cgroup, "cpuset.cpus");
	copy(hierarchy, cgroup, "cpuset.mems");
	return cgroup;
}

// By `tasks`: a write to v1's cgroup.procs waits for RCU, for up to 14 ms.
static void join(int cgroup) {
	int tasks = openat(cgroup, "tasks", O_WRONLY | O_CLOEXEC);
	check(tasks, "tasks");
	check(write(tasks, "0", 1), "join a cgroup");
	close(tasks);
}

// In the cgroup2 hierarchy, if there is one, by the clone itself, which is the fastest.
static pid_t clone_into(int cgroup, unsigned long namespaces) {
	struct clone_args args = {.flags = namespaces, .exit_signal = SIGCHLD};
	if (cgroup >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = cgroup;
	}
	return syscall(SYS_clone3, &args, sizeof args);
}

int main(int count, char **values) {
	if (count < 4)
		errx(125, "usage: floor ROOTFS NAME PROGRAM [ARGUMENT]...");
	arguments = values;
	name = values[2];
	// v2's root, or every hierarchy of v1 and the unified one.
	int v2 = access("/sys/fs/cgroup/cgroup.procs", F_OK) == 0;
	glob_t found;
	if (glob(v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/*", 0, NULL, &found) != 0)
		errx(125, "no cgroups");
	int hierarchies[found.gl_pathc], cgroups[found.gl_pathc], unified = -1;
	for (size_t i = 0; i < found.gl_pathc; i++) {
		check(hierarchies[i] = open(found.gl_pathv[i], O_DIRECTORY | O_CLOEXEC), found.gl_pathv[i]);
		cgroups[i] = make_cgroup(hierarchies[i]);
		if (faccessat(cgroups[i], "tasks", F_OK, 0) != 0)
			unified = cgroups[i];
	}

	pid_t child = clone_into(unified, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET);
	check(child, "clone");
	if (child == 0) {
		for (size_t i = 0; i < found.gl_pathc; i++)
			if (cgroups[i] != unified)
				join(cgroups[i]);
		// Last: its root is the cgroup that this process is in.
		check(unshare(CLONE_NEWCGROUP), "unshare");
		inside();
	}
	int status;
	check(waitpid(child, &status, 0), "waitpid");
	for (size_t i = 0; i < found.gl_pathc; i++)
		check(unlinkat(hierarchies[i], name, AT_REMOVEDIR), "remove a cgroup");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}
