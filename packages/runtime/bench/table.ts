/** Runs a bench and prints one line per task: rate, median, 99th percentile and spread, below a line that names the machine. */
import { cpus } from 'node:os'
import { Bench } from 'tinybench'

/** Half a second per task after a warm-up; `--quick` as an argument of the program makes it a tenth of that. */
export function newBench(): Bench {
  const quick = process.argv.includes('--quick')
  return new Bench({ time: quick ? 50 : 500, warmupTime: quick ? 20 : 200 })
}

export async function runBench(bench: Bench): Promise<void> {
  await bench.run()
  console.log(`node ${process.version}, ${cpus().length} × ${cpus()[0]?.model ?? 'unknown CPU'}`)
  console.table(
    bench.tasks.map(({ name, result }) => {
      if (!('latency' in result)) throw new Error(`${name} did not finish: ${result.state}`, { cause: 'error' in result ? result.error : undefined })
      return {
        name,
        'per second': Math.round(result.throughput.mean).toLocaleString('en-US'),
        'p50 µs': (result.latency.p50 * 1e3).toFixed(2),
        'p99 µs': (result.latency.p99 * 1e3).toFixed(2),
        '± %': result.latency.rme.toFixed(1),
      }
    }),
  )
}
