# Keeps what clients tell it: a line `KEY VALUE` is answered with how many keys there are and the sum of all values. A
# thread for each connection; a further one adds to a dictionary of its own, whose size only ever grows by one.
import socketserver, threading, time

values = {}
lock = threading.Lock()
own = {}

def grow():
    while len(own) == 0 or own[len(own) - 1] == str(len(own) - 1):
        own[len(own)] = str(len(own))
        time.sleep(0.001)

class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            key, value = line.split()
            with lock:
                values[key] = int(value)
                answer = f"{len(values)} {sum(values.values())} {len(own)}\n"
            self.wfile.write(answer.encode())

class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

threading.Thread(target=grow, daemon=True).start()
Server(("0.0.0.0", 7000), Handler).serve_forever()
