/** Spill files in a bucket. Keys are never written twice, and files are removed one by one. */
import { readParts, writePart } from './memory-parts.ts'
import { S3Bucket, type S3BucketOptions } from './s3-bucket.ts'
import type { MemoryPart, SpillTarget } from './target.ts'

/** A bucket for objects that a node has no room for. */
export interface S3Options extends S3BucketOptions {
  /** It must exist. What a daemon that was killed left in it stays: have the bucket expire objects after a day or so. */
  readonly bucket: string
  /** Before every key; default "beamline-spill". */
  readonly prefix?: string
}

export class S3Target implements SpillTarget {
  readonly #bucket: S3Bucket
  readonly #prefix: string
  readonly #written = new Set<string>()

  /** @param name - of this daemon, in every key */
  constructor(options: S3Options, name: string) {
    this.#bucket = new S3Bucket(options)
    this.#prefix = `${options.prefix ?? 'beamline-spill'}/${name}`
  }

  async write(file: string, parts: readonly MemoryPart[]): Promise<void> {
    const bytes = parts.reduce((sum, part) => sum + part.bytes, 0)
    this.#written.add(file) // also what was sent in part is removed
    await this.#bucket.write(this.#key(file), bytes, () => copies(readParts(parts)))
  }

  async read(file: string, from: number, memory: MemoryPart): Promise<void> {
    await this.#bucket.read(this.#key(file), from, memory.bytes, (chunks) => writePart(memory, chunks))
  }

  async remove(file: string): Promise<void> {
    this.#written.delete(file)
    await this.#bucket.remove(this.#key(file))
  }

  async close(): Promise<void> {
    await Promise.allSettled([...this.#written].map((file) => this.remove(file)))
    await this.#bucket.close()
  }

  #key(file: string): string {
    return `${this.#prefix}/${file}`
  }
}

/** The chunks of {@link readParts} are used again, and a request keeps several. */
async function* copies(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void> {
  for await (const chunk of chunks) yield Buffer.from(chunk)
}
