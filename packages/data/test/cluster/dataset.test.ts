/**
 * Datasets on real worker processes.
 */
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { col, Dataset, type Tensor, when } from '@beamline/data'
import { type Cluster, init } from '@beamline/runtime'
import { Float32, Int64 } from 'apache-arrow'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const data = (name: string): string => fileURLToPath(new URL(`../../../../examples/data/${name}`, import.meta.url))
const digits = data('digits.parquet')

let cluster: Cluster
let folder: string

beforeAll(async () => {
  cluster = await init({ cpus: 2, quiet: true })
  folder = await mkdtemp(join(tmpdir(), 'beamline-data-'))
})
afterAll(async () => {
  await cluster.shutdown()
  await rm(folder, { recursive: true })
})

describe('transforming', () => {
  test('map, filter and take run in order', async () => {
    const ds = Dataset.range(10_000)
      .map(({ id }) => ({ id, square: Number(id) ** 2 }))
      .filter(({ id }) => id % 1000n === 7n)
    expect(await ds.take(3)).toEqual([
      { id: 7n, square: 49 },
      { id: 1007n, square: 1007 ** 2 },
      { id: 2007n, square: 2007 ** 2 },
    ])
    expect(await ds.count()).toBe(10)
  })

  test('expressions filter and make columns without a function of the user', async () => {
    const ds = Dataset.readParquet<{ id: number; label: number }>(digits, { columns: ['id', 'label'] })
      .filter(col('label').isIn([3, 8]).and(col('id').ge(1_000)))
      .withColumn('half', col<number>('label').div(2))
      .withColumns({ name: when(col('label').eq(3), 'three').otherwise('eight'), id: col('id').cast(new Int64()) })
      .rename({ label: 'digit' })
      .drop('half')
    const rows = await ds.take(1_000)
    const wanted = (await Dataset.readParquet<{ id: number; label: number }>(digits, { columns: ['id', 'label'] }).take(10_000))
      .filter(({ id, label }) => id >= 1_000 && (label === 3 || label === 8))
      .map(({ id, label }) => ({ id: BigInt(id), digit: label, name: label === 3 ? 'three' : 'eight' }))
    expect(rows).toEqual(wanted)
    expect(wanted.length).toBeGreaterThan(100)
    expect(await ds.count()).toBe(wanted.length)
  })

  test('an expression behind a function of the user is checked against what the function gives', async () => {
    const ds = Dataset.range(10).map(({ id }) => ({ n: Number(id) }))
    expect(await ds.filter(col('n').gt(7)).take()).toEqual([{ n: 8 }, { n: 9 }])
    await expect(ds.filter(col('m').gt(7)).take()).rejects.toMatchObject({ code: 'COLUMN_NOT_FOUND' })
  })

  test('a value that cannot be evaluated is named with its row', async () => {
    const ds = Dataset.fromItems([{ text: '1' }, { text: 'two' }]).withColumn('n', col('text').cast(new Int64()))
    await expect(ds.take()).rejects.toThrow(
      'cast(text, Int64) in row 1 of a block: "two" has no exact value of type Int64; round or filter before, or use tryCast',
    )
  })

  test('columns keep their exact types through filter and row functions', async () => {
    const schema = await Dataset.readParquet(digits)
      .filter((row) => row.label === 3)
      .map((row) => ({ ...row, extra: 'x' }))
      .schema()
    expect(schema.fields.map(({ name, type }) => [name, String(type)])).toEqual([
      ['id', 'Int32'],
      ['image', 'FixedSizeList[64]<Uint8>'],
      ['label', 'Int8'],
      ['extra', 'Utf8'],
    ])
  })

  test('mapBatches gets batches of exactly the size it asked for, across blocks', async () => {
    const sizes = Dataset.readParquet(digits, { columns: ['label'] }).mapBatches(({ label }: { label: Int8Array }) => ({ size: Int32Array.of(label.length) }), {
      batchSize: 400,
    })
    expect((await sizes.take(100)).map(({ size }) => size)).toEqual([400, 400, 400, 400, 197])
  })

  test('a class is made once in each of its workers, set up before its first batch and disposed at the end', async () => {
    const log = join(folder, 'lifecycle')
    class Tagger {
      readonly #log: string
      #ready = false
      #batches = 0
      constructor(log: string) {
        this.#log = log
      }
      async setup(): Promise<void> {
        await writeFile(`${this.#log}-setup-${process.pid}`, '', { flag: 'wx' })
        this.#ready = true
      }
      call({ id }: { id: BigInt64Array }) {
        return { pid: Int32Array.from(id, () => process.pid), ready: Array.from(id, () => this.#ready), batch: Int32Array.from(id, () => this.#batches++) }
      }
      async [Symbol.asyncDispose](): Promise<void> {
        await writeFile(`${this.#log}-disposed-${process.pid}`, '', { flag: 'wx' })
      }
    }
    const rows = await Dataset.range(4_000)
      .mapBatches(Tagger, { constructorArgs: [log], concurrency: 2, batchSize: 100 })
      .take(4_000)
    const pids = new Set(rows.map(({ pid }) => pid))
    expect(pids.size).toBe(2)
    expect(pids.has(process.pid)).toBe(false)
    expect(rows.every(({ ready }) => ready)).toBe(true)
    const files = (await readdir(folder)).filter((name) => name.startsWith('lifecycle'))
    expect(files.sort()).toEqual([...pids].flatMap((pid) => [`lifecycle-disposed-${pid}`, `lifecycle-setup-${pid}`]).sort())
  })

  test('tensors come and go as flat arrays with a shape', async () => {
    const halves = Dataset.readParquet(digits, { columns: ['image'] }).mapBatches(({ image }: { image: Tensor<Uint8Array> }) => {
      const [rows = 0] = image.shape
      return {
        top: { data: Float32Array.from({ length: rows * 32 }, (_, i) => (image.data[Math.floor(i / 32) * 64 + (i % 32)] as number) / 16), shape: [rows, 4, 8] },
      }
    })
    const [row] = await halves.take(1)
    const [original] = await Dataset.readParquet(digits).take(1)
    expect(row?.top).toEqual(Float32Array.from((original?.image as Uint8Array).subarray(0, 32), (value) => value / 16))
    for await (const { top } of halves.iterBatches({ batchSize: 5 })) {
      expect((top as Tensor).shape).toEqual([5, 4, 8])
      break
    }
  })

  test('batches as rows and as Arrow', async () => {
    const rows = await Dataset.range(3)
      .mapBatches((batch: { id: bigint }[]) => batch.map(({ id }) => ({ id: id + 1n })), { batchFormat: 'rows' })
      .take()
    expect(rows).toEqual([{ id: 1n }, { id: 2n }, { id: 3n }])
    const same = await Dataset.range(3)
      .mapBatches((batch) => batch, { batchFormat: 'arrow' })
      .take()
    expect(same).toEqual([{ id: 0n }, { id: 1n }, { id: 2n }])
  })
})

describe('consuming', () => {
  test('iterBatches re-cuts blocks and keeps order', async () => {
    const seen: bigint[] = []
    const sizes: number[] = []
    for await (const { id } of Dataset.range(5_000).iterBatches({ batchSize: 768 })) {
      sizes.push((id as BigInt64Array).length)
      seen.push(...(id as BigInt64Array))
    }
    expect(sizes).toEqual([768, 768, 768, 768, 768, 768, 392])
    expect(seen).toEqual(Array.from({ length: 5_000 }, (_, i) => BigInt(i)))
  })

  test('items of any kind come back as they were', async () => {
    const items = [
      { text: 'ä', flag: true, when: new Date(5), bytes: Uint8Array.of(1, 2), list: [1, 2], nested: { a: 1n }, none: null },
      { text: null, flag: false, when: null, bytes: null, list: [], nested: null, none: null },
    ]
    expect(await Dataset.fromItems(items).take()).toEqual([
      { ...items[0], list: Float64Array.of(1, 2) },
      { ...items[1], list: new Float64Array(0) },
    ])
    expect(await Dataset.fromItems(['a', 'b']).take()).toEqual([{ item: 'a' }, { item: 'b' }])
    expect(await Dataset.fromItems([]).take()).toEqual([])
  })

  test('counting a file starts no task, counting after a filter does', async () => {
    expect(await Dataset.readParquet(digits).select('label').count()).toBe(1797)
    expect(await Dataset.readParquet(digits).limit(1000).count()).toBe(1000)
    expect(
      await Dataset.readParquet(digits)
        .filter((row) => row.label === 0)
        .count(),
    ).toBe(178)
  })

  test('an abort ends the run with the reason of the signal', async () => {
    const controller = new AbortController()
    const reason = new Error('enough')
    const slow = Dataset.range(100_000).mapBatches(async (batch) => {
      await new Promise(() => {})
      return batch
    })
    const counting = slow.filter(() => true).count({ signal: controller.signal })
    setTimeout(() => controller.abort(reason), 100)
    await expect(counting).rejects.toBe(reason)
    await expect(slow.count({ signal: controller.signal })).rejects.toBe(reason)
  })
})

describe('failing', () => {
  test("a user's error arrives with its message and the name of the step", async () => {
    const failing = Dataset.range(10).map(({ id }) => {
      if (id === 5n) throw new RangeError(`no ${id}`)
      return { id }
    })
    const error = await failing.take(10).catch((e: unknown) => e)
    expect(error).toMatchObject({ code: 'TASK_FAILED', details: { task: 'Range(10) → Map(anonymous)' }, cause: { name: 'RangeError', message: 'no 5' } })
    class Broken {
      setup(): void {
        throw new RangeError('no model')
      }
      call(batch: object): object {
        return batch
      }
    }
    const setup = await Dataset.range(10)
      .mapBatches(Broken as never, { concurrency: 1 })
      .take()
      .catch((e: unknown) => e)
    expect(setup).toMatchObject({ code: 'TASK_FAILED', details: { task: 'MapBatches(Broken)' }, cause: { name: 'RangeError', message: 'no model' } })
  })

  test('columns of different lengths are refused by name', async () => {
    const uneven = Dataset.range(10).mapBatches(function uneven({ id }: { id: BigInt64Array }) {
      return { id, half: new Float32Array(5) }
    })
    const error = await uneven.take(1).catch((e: unknown) => e)
    expect((error as { code: string }).code).toBe('BATCH_INVALID')
    expect(String((error as Error).message)).toContain('mapBatches(uneven): column "half" has 5 rows, column "id" has 10')
  })

  test('a value that does not fit the type of its column is refused, and a declared type lifts that', async () => {
    const labels = Dataset.readParquet<{ label: number }>(digits, { columns: ['label'] })
    const error = await labels
      .map(({ label }) => ({ label: label / 4 }))
      .take(5)
      .catch((e: unknown) => e)
    expect(String((error as Error).message)).toMatch(/column "label": the value 0\.25 in row 1 does not fit Int8/)
    const quarters = await labels.map(({ label }) => ({ label: label / 4 }), { types: { label: new Float32() } }).take(2)
    expect(quarters).toEqual([{ label: 0 }, { label: 0.25 }])
  })

  test('blocks of one step that disagree on a type are refused', async () => {
    const drifting = Dataset.range(4_000).map(({ id }) => ({ value: id < 2_000n ? 'text' : 1 }))
    const error = await drifting.take(4_000).catch((e: unknown) => e)
    expect(error).toMatchObject({ code: 'SCHEMA_MISMATCH', details: { column: 'value', found: 'Float64', expected: 'Utf8' } })
  })

  test('a damaged row group names the file, and the cluster works on', async () => {
    const path = join(folder, 'damaged.parquet')
    const bytes = await readFile(digits)
    bytes.fill(0x5a, 200, 4_000)
    await writeFile(path, bytes)
    const error = await Dataset.readParquet(path)
      .take(1)
      .catch((e: unknown) => e)
    expect(error).toMatchObject({ code: 'FILE_UNREADABLE', details: { path, part: 'row group 0' } })
    expect(await Dataset.readParquet(digits).take(1)).toHaveLength(1)
  })
})

describe('losing workers', () => {
  const killOnce = async (marker: string): Promise<void> => {
    const first = await writeFile(marker, '', { flag: 'wx' }).then(
      () => true,
      () => false,
    )
    if (first) process.kill(process.pid, 'SIGKILL')
  }

  test('a task whose worker is killed runs again: every row is written exactly once', async () => {
    const marker = join(folder, 'killed-task')
    const out = join(folder, 'after-task-kill')
    const { rows } = await Dataset.range(4_000)
      .mapBatches(async ({ id }: { id: BigInt64Array }) => {
        if (id.includes(2_500n)) await killOnce(marker)
        return { id }
      })
      .writeParquet(out)
    expect(rows).toBe(4_000)
    expect((await Dataset.readParquet<{ id: bigint }>(out).take(5_000)).map(({ id }) => id)).toEqual(Array.from({ length: 4_000 }, (_, i) => BigInt(i)))
    expect((await readdir(folder)).includes('killed-task')).toBe(true)
  })

  test('a worker of a pool that is killed is replaced, with a new instance: every row comes out once', async () => {
    const marker = join(folder, 'killed-worker')
    class Fragile {
      async call({ id }: { id: BigInt64Array }) {
        if (id.includes(2_500n)) await killOnce(marker)
        return { id }
      }
    }
    const rows = await Dataset.range(4_000).mapBatches(Fragile, { concurrency: 2, batchSize: 500 }).take(5_000)
    expect(rows.map(({ id }) => id)).toEqual(Array.from({ length: 4_000 }, (_, i) => BigInt(i)))
    expect((await readdir(folder)).includes('killed-worker')).toBe(true)
  })
})

describe('leaving early', () => {
  test('breaking out of iterBatches stops the pool and starts no further batch', async () => {
    const log = join(folder, 'early')
    await mkdir(log)
    class Slow {
      async call({ id }: { id: BigInt64Array }) {
        await writeFile(join(log, String(id[0])), '')
        if (id[0] !== 0n) await new Promise(() => {})
        return { id }
      }
      async [Symbol.asyncDispose](): Promise<void> {
        await writeFile(join(log, `disposed-${process.pid}`), '')
      }
    }
    for await (const { id } of Dataset.range(8_000).mapBatches(Slow, { concurrency: 1, batchSize: 1_000 }).iterBatches()) {
      expect((id as BigInt64Array)[999]).toBe(999n)
      break
    }
    const files = await readdir(log)
    expect(files.filter((name) => name.startsWith('disposed'))).toHaveLength(1)
    expect(files.filter((name) => !name.startsWith('disposed')).length).toBeLessThanOrEqual(3)
    // Its worker is free again.
    expect(await Dataset.range(5).count()).toBe(5)
    expect(
      await Dataset.range(5)
        .filter(() => true)
        .count(),
    ).toBe(5)
  })
})

describe('writing', () => {
  test('files come in the order of the rows and read back as they were', async () => {
    const out = join(folder, 'written')
    const result = await Dataset.readParquet(digits).writeParquet(out)
    expect(result).toMatchObject({ rows: 1797, files: [{ path: join(out, 'part-00000.parquet'), rows: 450 }, { rows: 450 }, { rows: 450 }, { rows: 447 }] })
    expect(await readdir(out)).toEqual(['part-00000.parquet', 'part-00001.parquet', 'part-00002.parquet', 'part-00003.parquet'])
    expect(await Dataset.readParquet(out).take(1797)).toEqual(await Dataset.readParquet(digits).take(1797))
    expect(String(await Dataset.readParquet(out).schema())).toBe(String(await Dataset.readParquet(digits).schema()))
  })

  test('a directory with files is left alone unless it is to be overwritten', async () => {
    const out = join(folder, 'twice')
    await Dataset.range(10).writeParquet(out)
    await expect(Dataset.range(20).writeParquet(out)).rejects.toMatchObject({ code: 'OUTPUT_EXISTS', details: { path: out, files: 1 } })
    expect(await Dataset.readParquet(out).count()).toBe(10)
    await Dataset.range(20).writeParquet(out, { mode: 'overwrite' })
    expect(await Dataset.readParquet(out).count()).toBe(20)
  })

  test('a failed write leaves nothing', async () => {
    const out = join(folder, 'failed')
    const failing = Dataset.range(5_000).map(({ id }) => {
      if (id === 4_999n) throw new Error('at the end')
      return { id }
    })
    await expect(failing.writeParquet(out)).rejects.toThrow('at the end')
    await expect(readdir(out)).rejects.toMatchObject({ code: 'ENOENT' })
  })

  test('no rows give one file that keeps the schema; blocks without rows give none', async () => {
    const none = join(folder, 'none')
    const { files } = await Dataset.readParquet(digits)
      .filter(() => false)
      .writeParquet(none)
    expect(files).toMatchObject([{ rows: 0 }])
    expect(String(await Dataset.readParquet(none).schema())).toBe(String(await Dataset.readParquet(digits).schema()))
    const some = join(folder, 'some')
    expect(
      (
        await Dataset.range(4_000)
          .filter(({ id }) => id >= 3_990n)
          .writeParquet(some)
      ).files,
    ).toMatchObject([{ rows: 10 }])
  })
})
