# Has an io_uring, and counts.
import ctypes, os, time

libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(425, 8, ctypes.create_string_buffer(120)) < 0:
    raise OSError(ctypes.get_errno(), "io_uring_setup")
start = time.time_ns()
file = os.open("/count", os.O_RDWR | os.O_CREAT, 0o644)
count = 0
while True:
    count += 1
    os.pwrite(file, f"{start} {count:020}\n".encode(), 0)
    time.sleep(0.01)
