"""The runtime's release tests on Ray: the same operations under the same metric names, for the column beside ours.

Run by the release-test runner with the Python that BEAMLINE_PEER_PYTHON names:

    python ray_core.py microbenchmark | cold-start | idle-memory | million-tasks

Metrics go to the file descriptor in BEAMLINE_RELEASE_METRICS_FD, one JSON line each, or to the terminal without one.
BEAMLINE_RELEASE_SMOKE=1 shortens it; BEAMLINE_RELEASE_METRICS is a glob of metric names. Exit code 77: this Python cannot run it.
"""

import fnmatch
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

SKIP_EXIT_CODE = 77
SMOKE = os.environ.get("BEAMLINE_RELEASE_SMOKE") == "1"
ONLY = os.environ.get("BEAMLINE_RELEASE_METRICS", "*")
METRICS_FD = os.environ.get("BEAMLINE_RELEASE_METRICS_FD")

ROUNDS = 4
WARM_UP_S = 0.25 if SMOKE else 1.0
ROUND_S = 0.25 if SMOKE else 2.0
CPUS = os.cpu_count() or 1
OK = b"ok"

try:
    import ray
    import numpy as np
except ImportError as error:
    print(f"this Python has no ray: {error}")
    sys.exit(SKIP_EXIT_CODE)


def report(name, unit, samples):
    line = json.dumps({"name": name, "unit": unit, "samples": samples})
    if METRICS_FD is None:
        print(line, flush=True)
    else:
        os.write(int(METRICS_FD), (line + "\n").encode())


def wanted(name):
    return fnmatch.fnmatchcase(name, ONLY)


def calls_within(op, seconds, step):
    start = time.perf_counter()
    count = 0
    while True:
        for _ in range(step):
            op()
        count += step
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return count, elapsed


def measure_latency(name, op):
    """The median of single calls in ms, four rounds."""
    calls_within(op, WARM_UP_S, 1)
    samples = []
    for _ in range(ROUNDS):
        times = []
        end = time.perf_counter() + ROUND_S
        while (begun := time.perf_counter()) < end:
            op()
            times.append((time.perf_counter() - begun) * 1000)
        samples.append(statistics.median(times))
    report(name, "ms", samples)


def measure(name, op, times=1.0, unit="/s"):
    """Warm up, then four rounds. `times` is how many units of work one call does."""
    if not wanted(name):
        return
    warm, _ = calls_within(op, WARM_UP_S, 1)
    step = warm // 10 + 1
    samples = []
    for _ in range(ROUNDS):
        count, elapsed = calls_within(op, ROUND_S, step)
        samples.append(count / elapsed * times)
    report(name, unit, samples)


# What the cluster runs. The names follow release-tests/scripts/workload.ts.


@ray.remote
def small_value():
    return OK


@ray.remote
def put_small_values(count):
    for _ in range(count):
        ray.put(0)


@ray.remote
def put_large_values(count):
    for _ in range(count):
        ray.put(np.zeros(10 * 1024 * 1024, dtype=np.int64))


@ray.remote
def list_of_refs(count):
    return [ray.put(1) for _ in range(count)]


@ray.remote(num_cpus=0)
class Server:
    def small_value(self):
        return OK

    def small_value_with_arg(self, _arg):
        return OK

    def submit_tasks(self, count):
        ray.get([small_value.remote() for _ in range(count)])


@ray.remote(num_cpus=0)
class AsyncServer:
    async def small_value(self):
        return OK

    async def small_value_with_arg(self, _arg):
        return OK


@ray.remote(num_cpus=0)
class Client:
    def __init__(self, servers):
        self.servers = servers

    def call_each(self, count):
        ray.get([server.small_value.remote() for server in self.servers for _ in range(count)])

    def call_each_with_ref(self, count):
        ref = ray.put(0)
        ray.get([server.small_value_with_arg.remote(ref) for server in self.servers for _ in range(count)])


@ray.remote
def call_in_turn(servers, count):
    ray.get([servers[index % len(servers)].small_value.remote() for index in range(count)])


def start(**options):
    ray.init(num_cpus=CPUS, include_dashboard=False, log_to_driver=False, logging_level="error", **options)


def objects():
    small = ray.put(0)
    measure("single_client_get_calls_Plasma_Store", lambda: ray.get(small))
    measure("single_client_put_calls_Plasma_Store", lambda: ray.put(0))
    measure("multi_client_put_calls_Plasma_Store", lambda: ray.get([put_small_values.remote(100) for _ in range(10)]), 1000)

    large = np.ones(100 * 1024 * 1024, dtype=np.int64)
    measure("single_client_put_gigabytes", lambda: ray.put(large), 0.8, "GB/s")
    if wanted("single_client_get_800MiB_ms"):
        stored = ray.put(large)
        measure_latency("single_client_get_800MiB_ms", lambda: ray.get(stored))
        del stored
    del large
    measure("multi_client_put_gigabytes", lambda: ray.get([put_large_values.remote(10) for _ in range(10)]), 8.0, "GB/s")

    if wanted("single_client_get_object_containing_10k_refs"):
        refs = list_of_refs.remote(10_000)
        measure("single_client_get_object_containing_10k_refs", lambda: ray.get(refs))


def tasks():
    def batch():
        ray.get([small_value.remote() for _ in range(1000)])

    def wait_for_each():
        pending = [small_value.remote() for _ in range(1000)]
        for _ in range(1000):
            _, pending = ray.wait(pending)

    measure("single_client_wait_1k_refs", wait_for_each)
    measure("single_client_tasks_and_get_batch", batch)
    measure("single_client_tasks_sync", lambda: ray.get(small_value.remote()))
    measure("single_client_tasks_async", batch, 1000)
    if wanted("multi_client_tasks_async"):
        servers = [Server.remote() for _ in range(4)]
        measure("multi_client_tasks_async", lambda: ray.get([server.submit_tasks.remote(10_000) for server in servers]), 40_000)


def actors(kind, infix):
    count = max(1, CPUS // 2)

    def calls(server):
        return lambda: ray.get([server.small_value.remote() for _ in range(1000)])

    one = kind.remote()
    measure(f"1_1_{infix}_calls_sync", lambda: ray.get(one.small_value.remote()))
    measure(f"1_1_{infix}_calls_async", calls(one), 1000)
    if kind is AsyncServer:
        with_args = f"1_1_{infix}_calls_with_args_async"
        measure(with_args, lambda: ray.get([one.small_value_with_arg.remote(i) for i in range(1000)]), 1000)
    else:
        measure(f"1_1_{infix}_calls_concurrent", calls(kind.options(max_concurrency=16).remote()), 1000)

    servers = [kind.remote() for _ in range(count)]
    client = Client.remote(servers)
    measure(f"1_n_{infix}_calls_async", lambda: ray.get(client.call_each.remote(5000)), 5000 * count)
    measure(f"n_n_{infix}_calls_async", lambda: ray.get([call_in_turn.remote(servers, 5000) for _ in range(4)]), 20_000)
    if kind is Server:
        clients = [Client.remote([server]) for server in servers]
        with_ref = lambda: ray.get([each.call_each_with_ref.remote(1000) for each in clients])  # noqa: E731
        measure(f"n_n_{infix}_calls_with_arg_async", with_ref, 1000 * count)


def placement_groups():
    from ray.util import placement_group, remove_placement_group

    def create_and_remove():
        groups = [placement_group([{"custom": 0.001}]) for _ in range(100)]
        for group in groups:
            group.wait(timeout_seconds=30)
        for group in groups:
            remove_placement_group(group)

    measure("placement_group_create/removal", create_and_remove, 100)


def microbenchmark():
    start(resources={"custom": 100})
    objects()
    tasks()
    actors(Server, "actor")
    actors(AsyncServer, "async_actor")
    placement_groups()


def cold_start():
    program = (
        "import ray; ray.init(num_cpus=%d, include_dashboard=False, log_to_driver=False, logging_level='error')\n"
        "f = ray.remote(lambda: 1)\nprint(ray.get(f.remote()), flush=True)" % CPUS
    )
    samples = []
    for _ in range(3 if SMOKE else 7):
        began = time.perf_counter()
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            assert child.stdout.readline() == b"1\n"
            samples.append(time.perf_counter() - began)
    report("cold_start_s", "s", samples)


def pss_mb(pid):
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return sum(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) * 1024 / 1e6


def descendants(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        for child in map(int, children.read().split()):
            yield child
            yield from descendants(child)


def idle_memory():
    if not os.path.exists("/proc/self/smaps_rollup"):
        print("needs /proc/PID/smaps_rollup")
        sys.exit(SKIP_EXIT_CODE)
    start()
    ray.get([small_value.remote() for _ in range(1000)])
    time.sleep(2)
    report("idle_pss_mb", "MB", [sum(pss_mb(pid) for pid in descendants(os.getpid()))])


def million_tasks():
    count = 50_000 if SMOKE else 1_000_000
    start()
    ray.get([small_value.remote() for _ in range(1000)])
    with tempfile.TemporaryDirectory() as folder:
        gate = os.path.join(folder, "open")

        @ray.remote
        def hold():
            while not os.path.exists(gate):
                time.sleep(0.01)

        began = time.perf_counter()
        holders = [hold.remote() for _ in range(CPUS)]
        refs = [small_value.remote() for _ in range(count)]
        open(gate, "w").close()
        ray.get(holders)
        for ref in refs:
            assert ray.get(ref) == OK
        report("queued_tasks", "/s", [count / (time.perf_counter() - began)])
    report("driver_rss_max_mb", "MB", [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6])


SUITES = {
    "microbenchmark": microbenchmark,
    "cold-start": cold_start,
    "idle-memory": idle_memory,
    "million-tasks": million_tasks,
}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in SUITES:
        sys.exit(f"usage: ray_core.py {' | '.join(SUITES)}")
    SUITES[sys.argv[1]]()
