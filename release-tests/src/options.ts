/**
 * The runner's command line. Pure: arguments in, options out.
 */
import { parseArgs } from 'node:util'

export interface RunnerOptions {
  readonly only: string | undefined
  readonly metrics: string | undefined
  readonly smoke: boolean
  readonly json: string | undefined
  readonly list: boolean
  readonly compare: boolean
  readonly runtime: 'dist' | 'source'
  readonly spec: string
  readonly results: string
  readonly verbose: boolean
  readonly help: boolean
}

export const USAGE = `npm run release-tests -- [options]

  --only GLOB       tests whose name or group matches; also the way to run "manual" tests
  --metrics GLOB    measure only these metrics; a ratio budget needs its yardstick too
  --smoke           the short form: tests that have one, short rounds, small sizes
  --json FILE       write the results there
  --list            print the tests and run nothing
  --compare         print the change against the last runs in the history file
  --runtime KIND    "dist" (default: build, then measure what users install) or "source" (run the .ts sources)
  --spec FILE       the declarations; default: release_tests.yaml beside the runner
  --results DIR     where history.jsonl is kept; default: results/ beside the runner
  --verbose         show what the scripts print
  --help

Exit code: 0 all passed, 1 a budget was missed or a test crashed, hung or left processes, 2 wrong usage or declarations.
BEAMLINE_PEER_PYTHON: a Python with the systems to compare with; their figures become a column.`

/** @throws TypeError on an unknown option, a missing value or an unknown --runtime */
export function parseOptions(argv: readonly string[], defaults: { spec: string; results: string }): RunnerOptions {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      only: { type: 'string' },
      metrics: { type: 'string' },
      smoke: { type: 'boolean', default: false },
      json: { type: 'string' },
      list: { type: 'boolean', default: false },
      compare: { type: 'boolean', default: false },
      runtime: { type: 'string', default: 'dist' },
      spec: { type: 'string', default: defaults.spec },
      results: { type: 'string', default: defaults.results },
      verbose: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  const { runtime } = values
  if (runtime !== 'dist' && runtime !== 'source') throw new TypeError(`--runtime must be "dist" or "source", not "${runtime}"`)
  return { ...values, runtime, only: values.only, metrics: values.metrics, json: values.json }
}
