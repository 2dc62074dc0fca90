/**
 * A real S3 server for tests: OpenStack Swift with its s3api, as Debian packages it, each of its servers a process on a free port and everything in a
 * folder of its own. It knows neither conditions nor batches, as many servers do not. Absent quietly where the packages are not installed.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

const NEEDED = [
  ...['proxy-server', 'account-server', 'container-server', 'object-server', 'ring-builder'].map((name) => `/usr/bin/swift-${name}`),
  '/usr/bin/memcached',
  '/etc/swift/swift.conf',
]
export const noSwift: boolean = NEEDED.some((path) => !existsSync(path))

export interface SwiftServer extends AsyncDisposable {
  readonly endpoint: string
  readonly credentials: { readonly accessKeyId: string; readonly secretAccessKey: string }
}

const ACCOUNT = 'tests'
const START_MS = 90_000
const STORAGE = ['account', 'container', 'object'] as const

export async function startSwift(): Promise<SwiftServer> {
  const dir = mkdtempSync(join(tmpdir(), 'beamline-swift-'))
  const processes: ChildProcess[] = []
  const stop = async (): Promise<void> => {
    const running = processes.filter(({ exitCode, signalCode }) => exitCode === null && signalCode === null)
    await Promise.all(
      running.map(async (child) => {
        child.kill('SIGKILL')
        await once(child, 'exit')
      }),
    )
    rmSync(dir, { recursive: true, force: true })
  }
  const run = (command: string, args: readonly string[]): void => {
    const child = spawn(command, args, { stdio: 'ignore' })
    child.on('error', () => undefined) // it is not there at the end of the wait
    processes.push(child)
  }
  try {
    mkdirSync(join(dir, 'devices', 'disk'), { recursive: true })
    const common = (port: number): string => `[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = ${port}\nswift_dir = ${dir}\nuser = root\nworkers = 0\n`
    for (const name of STORAGE) {
      const port = await freePort()
      const ring = (...args: string[]): unknown => execFileSync('swift-ring-builder', [join(dir, `${name}.builder`), ...args], { stdio: 'ignore' })
      ring('create', '4', '1', '0')
      ring('add', `r1z1-127.0.0.1:${port}/disk`, '1')
      ring('rebalance')
      const app = `[pipeline:main]\npipeline = ${name}-server\n[app:${name}-server]\nuse = egg:swift#${name}\n`
      writeFileSync(join(dir, `${name}.conf`), `${common(port)}devices = ${join(dir, 'devices')}\nmount_check = false\n${app}`)
      run(`swift-${name}-server`, [join(dir, `${name}.conf`)])
    }
    // Of the middleware s3api is what the tests are for; it keeps what it knows of buckets in the cache.
    const [port, cachePort] = [await freePort(), await freePort()]
    run('memcached', ['-l', '127.0.0.1', '-p', String(cachePort), '-U', '0', '-u', 'nobody'])
    const filter = (name: string, more = ''): string => `[filter:${name}]\nuse = egg:swift#${name === 'cache' ? 'memcache' : name}\n${more}`
    const proxy = [
      common(port),
      '[pipeline:main]\npipeline = catch_errors cache s3api tempauth bulk slo proxy-server\n',
      '[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n',
      filter('catch_errors') + filter('bulk') + filter('slo'),
      filter('cache', `memcache_servers = 127.0.0.1:${cachePort}\n`),
      filter('s3api', 'location = us-east-1\n'),
      filter('tempauth', `user_${ACCOUNT}_user = secret .admin\n`),
    ]
    writeFileSync(join(dir, 'proxy.conf'), proxy.join(''))
    run('swift-proxy-server', [join(dir, 'proxy.conf')])
    const until = performance.now() + START_MS
    while (!(await listens(port))) {
      if (performance.now() > until) throw new Error(`Swift does not listen after ${START_MS} ms`)
      await delay(200)
    }
    return {
      endpoint: `http://127.0.0.1:${port}`,
      credentials: { accessKeyId: `${ACCOUNT}:user`, secretAccessKey: 'secret' },
      [Symbol.asyncDispose]: stop,
    }
  } catch (error) {
    await stop()
    throw error
  }
}

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.on('connect', () => resolve(true))
    socket.on('error', () => resolve(false))
    socket.on('close', () => socket.destroy())
    socket.on('connect', () => socket.destroy())
  })
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}
