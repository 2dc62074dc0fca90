/**
 * Hosts for tests, each with a network of its own on this machine: a network namespace with one interface, an own address and an own loopback. A
 * bridge joins them, and the test process, in one subnet 10.x.y.0/24. Files, processes and shared memory are those of the machine: whoever starts
 * something on a host gives it folders of its own. Linux, as root, with `ip`, `tc` (iproute2), `nft` (nftables) and `nsenter`.
 *
 *     test process 10.x.y.254 ── bridge ─┬─ host 0  10.x.y.1
 *                                        ├─ host 1  10.x.y.2
 *                                        └─ …
 *
 * Faults, per host or between two hosts, all of them on packets, so that connections see what they would see on a wire:
 *
 * | fault | means |
 * |---|---|
 * | `cut` | nftables drops what comes and goes: nobody answers |
 * | `reject` | nftables answers TCP with a reset: refused, and established connections break |
 * | `lose` | nftables drops a random part of what arrives |
 * | `throttle` | tc token buckets (tbf), both ways |
 * | `delay` | packets leave through a program behind a TUN device that holds them back: `netem` is missing in many kernels |
 *
 * Nothing outlives the test: `dispose` removes everything, and a later test removes what a killed one left (registry.ts).
 *
 * @example
 * await using network = await TestNetwork.create(2)
 * const [a, b] = network.hosts
 * const server = a.start(['node', 'server.js'])
 * await b.cut(a)
 * await b.heal()
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { BeamlineError } from '../errors.ts'
import { Program, type ProgramOptions } from './program.ts'
import { bridgeName, claim, linkName, namespaceName, remove, TEST_ENV } from './registry.ts'
import { output, run } from './shell.ts'

/** Jumbo frames: fewer packets for whatever looks at each. */
const MTU = 9_000
const HOSTS_MAX = 250
const BRIDGE_HOST = 254
const DELAY_DEVICE = 'bldelay'
/** Routing table for what comes out of the delay. */
const DELAYED_TABLE = 100
const THROTTLE_BURST_BYTES_MIN = 64 * 1024

/** Whatever is missing on this machine for a {@link TestNetwork}, as a sentence; undefined when nothing is. */
export async function networkUnavailable(): Promise<string | undefined> {
  if (process.platform !== 'linux') return `network namespaces are a feature of Linux, and this is ${process.platform}`
  if (process.getuid?.() !== 0) return 'network namespaces can only be made by root'
  const tools = [
    ['ip', '-V'],
    ['tc', '-V'],
    ['nft', '--version'],
    ['nsenter', '--version'],
  ]
  const found = await Promise.all(tools.map((argv) => output(argv)))
  const missing = tools.flatMap(([name = ''], index) => (found[index]?.code === 0 ? [] : [name]))
  if (missing.length > 0) return `${missing.join(' and ')} cannot be run: install iproute2, nftables and util-linux`
  return existsSync('/dev/net/tun') ? undefined : 'there is no /dev/net/tun, which delays need'
}

export class TestNetwork implements AsyncDisposable {
  /** Six hex digits, part of the names of everything that this network made. */
  readonly id: string
  readonly hosts: readonly TestHost[]
  /** Where hosts reach servers of the test process. */
  readonly address: string

  private constructor(id: string, subnet: string, hosts: number) {
    this.id = id
    this.address = `${subnet}.${BRIDGE_HOST}`
    this.hosts = Array.from({ length: hosts }, (_, index) => new TestHost(id, subnet, index, hosts))
  }

  /**
   * @param hosts - how many, at most 250
   * @throws {@link BeamlineError} `START_FAILED` where the machine cannot do this; {@link networkUnavailable} says so before
   */
  static async create(hosts: number): Promise<TestNetwork> {
    const unavailable = await networkUnavailable()
    if (unavailable !== undefined) throw new BeamlineError('START_FAILED', { what: 'a network for tests', reason: unavailable })
    if (hosts > HOSTS_MAX) throw new BeamlineError('INVALID_ARGUMENT', { what: 'hosts', got: String(hosts), expected: `at most ${HOSTS_MAX}` })
    const id = await claim()
    const network = new TestNetwork(id, await freeSubnet(id), hosts)
    try {
      await network.#build()
    } catch (error) {
      await network[Symbol.asyncDispose]()
      throw error
    }
    return network
  }

  /** Ends all faults. */
  async heal(): Promise<void> {
    await Promise.all(this.hosts.map((host) => host.heal()))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.hosts.map((host) => host.stopDelay()))
    await remove(this.id)
  }

  async #build(): Promise<void> {
    const bridge = bridgeName(this.id)
    const lines = [`link add ${bridge} mtu ${MTU} type bridge`, `address add ${this.address}/24 dev ${bridge}`, `link set ${bridge} up`]
    for (const { namespace } of this.hosts) await run(['ip', 'netns', 'add', namespace])
    for (const { link, namespace } of this.hosts) {
      lines.push(`link add ${link} mtu ${MTU} type veth peer name eth0 mtu ${MTU} netns ${namespace}`, `link set ${link} master ${bridge} up`)
    }
    await run(['ip', '-batch', '-'], lines.join('\n'))
    await Promise.all(this.hosts.map((host) => host.build()))
  }
}

interface Rule {
  readonly chain: 'in' | 'out'
  readonly text: string
}

export class TestHost {
  readonly address: string
  /** Of the network namespace. */
  readonly namespace: string
  /** The end of its interface at the bridge. */
  readonly link: string
  readonly #id: string
  readonly #subnet: string
  readonly #hosts: number
  #rules: Rule[] = []
  #isThrottled = false
  #delaying: ChildProcess | undefined
  #delayed: readonly string[] = []

  constructor(id: string, subnet: string, index: number, hosts: number) {
    this.#id = id
    this.#subnet = subnet
    this.#hosts = hosts
    this.address = addressOf(subnet, index)
    this.namespace = namespaceName(id, index)
    this.link = linkName(id, index)
  }

  /** The command line that runs `argv` on this host, as the same process. */
  command(argv: readonly string[]): string[] {
    return ['nsenter', `--net=/run/netns/${this.namespace}`, ...argv]
  }

  /** Starts a program on this host; the network's end is its end. */
  start(argv: readonly string[], options: ProgramOptions = {}): Program {
    return new Program(this.command(argv), { ...options, env: { ...options.env, [TEST_ENV]: this.#id } })
  }

  /** Nothing comes or goes any more, or nothing to and from `other`. */
  async cut(other?: TestHost): Promise<void> {
    await this.#add(rule('in', other, 'drop'), rule('out', other, 'drop'))
  }

  /** Connections are refused and break, both ways, or those with `other`. */
  async reject(other?: TestHost): Promise<void> {
    // The resets themselves must pass.
    const actions = ['tcp flags & rst == rst accept', 'meta l4proto tcp reject with tcp reset', 'drop']
    await this.#add(...actions.flatMap((action) => [rule('in', other, action), rule('out', other, action)]))
  }

  /** Drops so many percent of the packets that arrive, or of those from `other`. What leaves is lost where it arrives. */
  async lose(percent: number, other?: TestHost): Promise<void> {
    await this.#add(rule('in', other, `numgen random mod 10000 < ${Math.round(percent * 100)} drop`))
  }

  /** Passes so many bytes a second, each way. */
  async throttle(bytesPerSecond: number): Promise<void> {
    const burst = Math.max(THROTTLE_BURST_BYTES_MIN, Math.round(bytesPerSecond / 100))
    const bucket = ['root', 'tbf', 'rate', `${Math.round(bytesPerSecond) * 8}bit`, 'burst', String(burst), 'latency', '50ms']
    await run(this.command(['tc', 'qdisc', 'replace', 'dev', 'eth0', ...bucket]))
    await run(['tc', 'qdisc', 'replace', 'dev', this.link, ...bucket])
    this.#isThrottled = true
  }

  /** What leaves arrives so much later, or what leaves for `other`. The last call's time holds for all. */
  async delay(milliseconds: number, other?: TestHost): Promise<void> {
    if (this.#delaying === undefined) await this.#startDelay(milliseconds)
    else this.#delaying.stdin?.write(`${milliseconds}\n`)
    const others = Array.from({ length: this.#hosts }, (_, index) => addressOf(this.#subnet, index)).filter((address) => address !== this.address)
    const targets = other === undefined ? others : [other.address]
    const routes = targets.map((address) => `route replace ${address}/32 dev ${DELAY_DEVICE} src ${this.address}`)
    await run(['ip', '-n', this.namespace, '-batch', '-'], routes.join('\n'))
    this.#delayed = [...new Set([...this.#delayed, ...targets])]
  }

  /** Ends the faults of this host, also those between it and another that were made here. */
  async heal(): Promise<void> {
    if (this.#rules.length > 0) {
      this.#rules = []
      await this.#filter()
    }
    if (this.#isThrottled) {
      await run(this.command(['tc', 'qdisc', 'delete', 'dev', 'eth0', 'root']))
      await run(['tc', 'qdisc', 'delete', 'dev', this.link, 'root'])
      this.#isThrottled = false
    }
    if (this.#delayed.length > 0) {
      // What is held back comes out before the program ends: it stays, without anything to do.
      await run(['ip', '-n', this.namespace, '-batch', '-'], this.#delayed.map((address) => `route delete ${address}/32 dev ${DELAY_DEVICE}`).join('\n'))
      this.#delayed = []
    }
  }

  /** @internal */
  async build(): Promise<void> {
    const lines = [`address add ${this.address}/24 dev eth0`, 'link set eth0 up', 'link set lo up']
    await run(['ip', '-n', this.namespace, '-batch', '-'], lines.join('\n'))
    await this.#filter()
  }

  /** @internal */
  async stopDelay(): Promise<void> {
    if (this.#delaying === undefined) return
    this.#delaying.kill('SIGKILL')
    if (this.#delaying.exitCode === null && this.#delaying.signalCode === null) await once(this.#delaying, 'exit')
    this.#delaying = undefined
  }

  async #add(...rules: Rule[]): Promise<void> {
    this.#rules.push(...rules)
    await this.#filter()
  }

  /** All rules in one transaction. */
  async #filter(): Promise<void> {
    const chain = (name: Rule['chain'], hook: string, rules: readonly string[]): string =>
      `  chain ${name} {\n    type filter hook ${hook} priority 0; policy accept;\n${rules.map((text) => `    ${text}\n`).join('')}  }\n`
    const of = (name: Rule['chain']): string[] => this.#rules.filter((each) => each.chain === name).map(({ text }) => text)
    const table = `table ip beamline {\n${chain('in', 'input', of('in'))}${chain('out', 'output', of('out'))}}\n`
    await run(this.command(['nft', '-f', '-']), `table ip beamline\ndelete table ip beamline\n${table}`)
  }

  /**
   * Packets from this host come out of the device as if they came from outside, with an address of this host, and are sent on: the kernel must
   * forward, accept its own address as a source, and not send them into the device again.
   */
  async #startDelay(milliseconds: number): Promise<void> {
    const lines = [
      `tuntap add dev ${DELAY_DEVICE} mode tun`,
      `link set ${DELAY_DEVICE} mtu ${MTU} up`,
      `rule add iif ${DELAY_DEVICE} lookup ${DELAYED_TABLE}`,
      `route add ${this.#subnet}.0/24 dev eth0 table ${DELAYED_TABLE}`,
    ]
    await run(['ip', '-n', this.namespace, '-batch', '-'], lines.join('\n'))
    const settings = [
      'ipv4/ip_forward=1',
      ...['all', 'eth0', DELAY_DEVICE].flatMap((name) => [
        `ipv4/conf/${name}/accept_local=1`,
        `ipv4/conf/${name}/rp_filter=0`,
        `ipv4/conf/${name}/send_redirects=0`,
      ]),
    ]
    const script = settings.map((each) => `echo ${each.split('=')[1]} > /proc/sys/net/${each.split('=')[0]}`).join(' && ')
    await run(this.command(['sh', '-c', script]))
    const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
    const program = new URL(`network-delay.${extension}`, import.meta.url).pathname
    const [command = '', ...args] = this.command([process.execPath, program, DELAY_DEVICE, String(milliseconds)])
    const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, NODE_OPTIONS: '', [TEST_ENV]: this.#id } })
    let stderr = ''
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
    child.stdin.on('error', () => undefined)
    this.#delaying = child
    await Promise.race([
      once(child.stdout, 'data'),
      once(child, 'exit').then(() => {
        throw new BeamlineError('START_FAILED', { what: `the delay of ${this.address}`, reason: stderr.trim() })
      }),
    ])
  }
}

const addressOf = (subnet: string, index: number): string => `${subnet}.${index + 1}`

function rule(chain: Rule['chain'], other: TestHost | undefined, action: string): Rule {
  const outside = chain === 'in' ? 'iifname != "lo"' : 'oifname != "lo"'
  const which = other === undefined ? '' : `ip ${chain === 'in' ? 'saddr' : 'daddr'} ${other.address} `
  return { chain, text: `${outside} ${which}${action}` }
}

/** 10.x.y of which no address or route of this machine is part. */
async function freeSubnet(id: string): Promise<string> {
  const taken = `${await run(['ip', '-4', 'address'])}${await run(['ip', '-4', 'route'])}`
  for (let attempt = 0; attempt < 100; attempt++) {
    const number = (Number.parseInt(id, 16) + attempt * 7_919) % 0x4000
    const subnet = `10.${64 + (number >> 8)}.${number & 0xff}`
    if (!taken.includes(`${subnet}.`)) return subnet
  }
  throw new BeamlineError('START_FAILED', { what: 'a network for tests', reason: 'a hundred subnets of 10.64.0.0/10 were tried, and all are in use' })
}
