/**
 * Where a cluster keeps packed code outside of its control store: `s3://BUCKET/PREFIX`, with `?endpoint=URL` for a server that is not AWS, or
 * `file:///FOLDER`, which every machine must see at the same path. Files get their name when they are complete.
 */
import { randomBytes } from 'node:crypto'
import { accessSync, constants, statSync } from 'node:fs'
import { mkdir, open, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { fill } from '../spill/memory-parts.ts'
import { S3Bucket } from '../spill/s3-bucket.ts'

export interface PackagePlace {
  write(name: string, bytes: Uint8Array): Promise<void>
  /** @throws when they are not there */
  read(name: string, from: number, bytes: number): Promise<Buffer>
  remove(name: string): Promise<void>
  /** Lets go of its connections. */
  close(): Promise<void>
}

const CHUNK_BYTES = 1_048_576
const BUCKET = /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/

/** @returns what is wrong with that URL, for people; undefined: nothing that can be seen from here */
export function placeProblem(url: string): string | undefined {
  const parsed = URL.parse(url)
  if (parsed?.protocol === 's3:') {
    if (!BUCKET.test(parsed.host)) return `"${parsed.host}" is no name of a bucket`
    const unknown = [...parsed.searchParams.keys()].find((name) => name !== 'endpoint')
    if (unknown !== undefined || parsed.hash !== '') return `"${unknown ?? parsed.hash}" means nothing there`
    const endpoint = parsed.searchParams.get('endpoint')
    if (endpoint !== null && !/^https?:$/.test(URL.parse(endpoint)?.protocol ?? '')) return `the endpoint "${endpoint}" is no URL of http or https`
    if (/%(?![0-9a-f]{2})/i.test(parsed.pathname)) return `"${parsed.pathname}" has a "%" that should be "%25"`
    return parsed.username === '' && parsed.password === '' ? undefined : 'keys do not belong there: the variables of AWS have them'
  }
  if (parsed?.protocol !== 'file:') return 'it is neither of S3 nor of a folder'
  if (parsed.host !== '') return `"${parsed.host}" is another machine; a folder has three slashes, as in file:///shared/packages`
  if (parsed.search !== '' || parsed.hash !== '') return `"${parsed.search}${parsed.hash}" means nothing there`
  try {
    const path = fileURLToPath(parsed)
    if (!statSync(path).isDirectory()) return `${path} is no folder`
    accessSync(path, constants.W_OK)
  } catch (error) {
    return (error as Error).message
  }
  return undefined
}

/** The place inside of another one that has the name. */
export function placeWithin(url: string, name: string): string {
  const parsed = new URL(url)
  parsed.pathname = `${parsed.pathname.replace(/\/+$/, '')}/${name}`
  return parsed.href
}

export async function withPlace<T>(url: string, act: (place: PackagePlace) => Promise<T>): Promise<T> {
  const place = openPlace(url)
  try {
    return await act(place)
  } finally {
    await place.close()
  }
}

export function openPlace(url: string): PackagePlace {
  const parsed = new URL(url)
  if (parsed.protocol === 'file:') return folderPlace(fileURLToPath(parsed))
  const endpoint = parsed.searchParams.get('endpoint')
  const bucket = new S3Bucket({ bucket: parsed.host, ...(endpoint !== null && { endpoint }) })
  const prefix = decodeURIComponent(parsed.pathname).replace(/^\/+/, '')
  const key = (name: string): string => `${prefix}/${name}`
  return {
    write: (name, bytes) => bucket.write(key(name), bytes.length, () => chunksOf(bytes)),
    read: (name, from, bytes) => bucket.read(key(name), from, bytes, collect),
    remove: (name) => bucket.remove(key(name)),
    close: () => bucket.close(),
  }
}

function folderPlace(folder: string): PackagePlace {
  return {
    write: async (name, bytes) => {
      await mkdir(folder, { recursive: true, mode: 0o700 })
      // Two programs may give the same code at once.
      const fresh = join(folder, `.new-${randomBytes(8).toString('hex')}-${name}`)
      try {
        await writeFile(fresh, bytes, { mode: 0o600, flush: true })
        await rename(fresh, join(folder, name))
      } catch (error) {
        await rm(fresh, { force: true })
        throw error
      }
    },
    read: async (name, from, bytes) => {
      const handle = await open(join(folder, name))
      try {
        const buffer = Buffer.allocUnsafeSlow(bytes)
        await fill(handle, buffer, from)
        return buffer
      } finally {
        await handle.close()
      }
    },
    remove: (name) => rm(join(folder, name), { force: true }),
    close: async () => {},
  }
}

async function* chunksOf(bytes: Uint8Array): AsyncGenerator<Buffer, void> {
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) yield Buffer.from(bytes.subarray(at, at + CHUNK_BYTES))
}

async function collect(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const all: Uint8Array[] = []
  for await (const chunk of chunks) all.push(chunk)
  return Buffer.concat(all)
}
