# Memory that two processes share: an anonymous mapping, System V shared memory, and a mapped file of /dev/shm. The child
# answers in each what the parent has written there; /count has `START COUNT`, as the workload's modes write it.
import ctypes, mmap, os, time

def system_v(size):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    segment = libc.shmget(0, size, 0o1600)
    address = libc.shmat(segment, None, 0)
    if segment < 0 or address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "shmget, shmat")
    return (ctypes.c_char * size).from_address(address)

SIZE = 1 << 20
posix = os.open("/dev/shm/shared", os.O_RDWR | os.O_CREAT, 0o600)
os.ftruncate(posix, SIZE)
memories = [mmap.mmap(-1, SIZE), system_v(SIZE), mmap.mmap(posix, SIZE)]
contents = os.urandom(SIZE - 16)
for memory in memories:
    memory[16:SIZE] = contents

def number(memory, at):
    return int.from_bytes(memory[at:at + 8], "big")

def write(memory, at, value):
    memory[at:at + 8] = value.to_bytes(8, "big")

if os.fork() == 0:
    while True:
        for memory in memories:
            write(memory, 8, number(memory, 0))
        time.sleep(0.001)

start = time.time_ns()
file = os.open("/count", os.O_RDWR | os.O_CREAT, 0o644)
count = 0
while True:
    count += 1
    for memory in memories:
        write(memory, 0, count)
    while any(number(memory, 8) != count for memory in memories):
        time.sleep(0.001)
    if any(memory[16:SIZE] != contents for memory in memories):
        raise SystemExit("the contents are others")
    os.pwrite(file, f"{start} {count:020}\n".encode(), 0)
