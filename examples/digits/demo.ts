/**
 * The main job: read handwritten digits from Parquet, classify them with an ONNX model on worker processes, write Parquet, and check the
 * result by reading the written files back.
 *
 * Run it with `npm run demo`, or `node --conditions=@beamline/source examples/digits/demo.ts [output directory]`, from any directory.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Dataset } from '@beamline/data'
import { init } from '@beamline/runtime'
import { Classifier } from './classifier.ts'

const digits = fileURLToPath(new URL('../data/digits.parquet', import.meta.url))
const model = fileURLToPath(new URL('../data/digits-mlp.onnx', import.meta.url))

const chosen = process.argv[2]
const output = chosen ?? (await mkdtemp(join(tmpdir(), 'beamline-digits-')))
try {
  await using _cluster = await init()
  const started = performance.now()
  const { rows, files } = await Dataset.readParquet(digits)
    .mapBatches(Classifier, { constructorArgs: [model], batchSize: 128, concurrency: 2 })
    .writeParquet(output, { mode: 'overwrite' })
  const seconds = (performance.now() - started) / 1000

  let right = 0
  for await (const { label, predicted } of Dataset.readParquet<{ label: number; predicted: number }>(output).iterBatches({ progress: false })) {
    const [labels, predictions] = [label as Int8Array, predicted as Int8Array]
    for (let row = 0; row < labels.length; row++) if (labels[row] === predictions[row]) right++
  }
  const count = (n: number): string => n.toLocaleString('en-US')
  console.log(`${count(rows)} rows in ${seconds.toFixed(2)} s, ${count(Math.round(rows / seconds))} rows/s, ${files.length} files`)
  console.log(`accuracy ${((100 * right) / rows).toFixed(2)} %: ${count(right)} of ${count(rows)} labels`)
} finally {
  if (chosen === undefined) await rm(output, { recursive: true })
}
