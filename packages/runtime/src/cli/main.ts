#!/usr/bin/env node
/**
 * The command line `beamline`. Exit status: 0 done, 1 it failed, 2 the command line is wrong, 3 there is no cluster; `run` ends with the status
 * of its program.
 */
import { readFileSync } from 'node:fs'
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import pico from 'picocolors'
import { BeamlineError } from '../errors.ts'
import { useCompileCache } from '../daemon/compile-cache.ts'
import { CommandError, EXIT } from './exit.ts'
import type { StartOptions } from './start.ts'
import { TOPICS, type Topic } from './topics.ts'

// Commands load what they need when they run: help and mistakes answer at once, and the rest comes from the cache after the first time.
useCompileCache()

interface Common {
  readonly address?: string
  readonly json?: boolean
}

function whole(text: string): number {
  const value = Number(text)
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) throw new InvalidArgumentError('It must be a whole number.')
  return value
}

function positive(text: string): number {
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value) || value < 0) throw new InvalidArgumentError('It must be a number that is not negative.')
  return value
}

function resources(text: string): Record<string, number> {
  const out: Record<string, number> = {}
  for (const part of text.split(',')) {
    const [name, amount] = part.split('=')
    if (name === undefined || name === '' || amount === undefined) throw new InvalidArgumentError('It must look like name=amount,name=amount.')
    out[name] = positive(amount)
  }
  return out
}

function labels(text: string): Record<string, string> {
  const out: Record<string, string> = {}
  for (const part of text.split(',')) {
    const [name, value, ...more] = part.split('=')
    if (name === undefined || name === '' || value === undefined || more.length > 0) throw new InvalidArgumentError('It must look like name=value,name=value.')
    out[name] = value
  }
  return out
}

function folders(text: string, before: readonly string[] = []): string[] {
  return [...before, text]
}

function version(): string {
  return (JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }).version
}

let exitStatus: number = EXIT.ok

// Whoever read the output has seen enough, as `head` does.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? exitStatus : EXIT.failure))

const program = new Command('beamline')
  .description('Start, stop and look at Beamline clusters.')
  .version(version())
  .exitOverride()
  .enablePositionalOptions()
  .showHelpAfterError('(beamline --help shows all commands)')
  .addHelpText('after', '\nExit status: 0 done, 1 it failed, 2 the command line is wrong, 3 there is no cluster. `run` ends with the status of its program.')

const address = (): Option =>
  new Option('--address <address>', '"auto", unix:/path/node.sock, or HOST:PORT of a daemon on this machine').env('BEAMLINE_ADDRESS')
const json = (): Option => new Option('--json', 'print JSON')

program
  .command('start')
  .description('start a node on this machine that stays until `beamline stop`: the head of a cluster, or one that joins')
  .option('--head', 'the control of the cluster is here')
  .option('--address <host:port>', 'join the cluster of that daemon; its token comes from --token-file or BEAMLINE_TOKEN')
  .option('--token-file <path>', 'file with the token of the cluster')
  .option('--host <address>', 'address of this machine on which others reach it (default: 127.0.0.1 at a head, else the one from which the head is reached)')
  .option('--port <n>', 'port for other daemons (default: 6380 at a head if it is free, else any)', whole)
  .option('--store <url>', 'control store: sqlite:/PATH, redis://…, postgres://…, memory: (default: SQLite in the folder of sessions)')
  .option('--packages <url>', 'at a head: s3://BUCKET/PREFIX or file:///FOLDER for packed code of programs (default: the control store)')
  .option('--labels <list>', 'facts that tasks may ask for, as name=value,name=value', labels)
  .option('--tls', 'encrypt: makes certificates if --tls-dir has none')
  .option('--tls-dir <folder>', 'ca.pem, cert.pem and key.pem of the cluster: encrypt with them')
  .option('--insecure', 'listen beyond loopback without encryption')
  .option('--node-timeout-ms <n>', 'at a head: a silent node is declared dead within this time (default: 10000)', whole)
  .option('--heartbeat-ms <n>', 'at a head: how often nodes say that they live (default: 1000)', whole)
  .option('--head-timeout-ms <n>', 'how long nodes go on while no head listens (default: 60000)', whole)
  .option('--store-dir <folder>', 'folder for shared memory (default: BEAMLINE_STORE_DIR, else /dev/shm)')
  .option('--cpus <n>', 'cpus to lend (default: those of this machine)', positive)
  .option('--gpus <n>', 'gpus to lend (default: those of this machine)', positive)
  .option('--memory-bytes <n>', 'memory to lend (default: 0.7 of the machine)', whole)
  .option('--memory-limit-bytes <n>', 'memory that workers may use together before some are ended (default: what the machine or its control group has)', whole)
  .option('--resources <list>', 'custom resources, as name=amount,name=amount', resources)
  .option('--store-bytes <n>', 'capacity of the object store (default: 0.3 of the memory)', whole)
  .option('--spill-dir <folder>', 'a folder for objects that the store has no room for; once per disk (default: the folder of the session)', folders)
  .option('--spill-quota <n>', 'most bytes in each of those folders (default: 0.9 of what its disk has free)', whole)
  .option('--spill-s3 <bucket/prefix>', 'a bucket in their place; keys, region and endpoint come from the variables of AWS')
  .option('--spill-s3-endpoint <url>', 'of a server that is not AWS (default: AWS_ENDPOINT_URL)')
  .option('--no-spill', 'objects go nowhere: a full store stays full')
  .option('--prestart <n>', 'workers kept warm (default: as many as cpus)', whole)
  .option('--workers-max <n>', 'most workers that are actors (default: 1024)', whole)
  .option('--idle-timeout-ms <n>', 'idle workers beyond those end after this (default: 10000)', whole)
  .addOption(json())
  .action(async ({ json: asJson, ...options }: StartOptions & { json?: boolean }) => {
    if ((options.head === true) === (options.address !== undefined)) program.error('error: either --head or --address HOST:PORT', { exitCode: EXIT.usage })
    await (await import('./start.ts')).start(options, asJson === true)
  })

program
  .command('stop')
  .description('end the daemons of this machine and all that they started')
  .option('--cluster', 'end the daemons on the other machines too, and what the control store keeps of the cluster')
  .addOption(address())
  .addOption(json())
  .action(async (options: Common & { cluster?: boolean }) => (await import('./stop.ts')).stop(options.address, options.cluster === true, options.json === true))

program
  .command('drain')
  .description('let a node finish what it runs and move its objects, then leave the cluster')
  .argument('<node>', 'its id, or the beginning of it')
  .option('--deadline-ms <n>', 'what runs longer is ended', whole, 600_000)
  .option('--reason <text>', 'for errors and logs', 'beamline drain')
  .addOption(address())
  .addOption(json())
  .action(async (node: string, options: Common & { deadlineMs: number; reason: string }) =>
    (await import('./drain.ts')).drain(node, options, options.address, options.json === true),
  )

program
  .command('status')
  .description('what a cluster has, what is in use, and what waits for what')
  .addOption(address())
  .addOption(json())
  .action(async (options: Common) => (await import('./status.ts')).status(options.address, options.json === true))

program
  .command('list')
  .description(`list ${TOPICS.join(', ')}`)
  .addArgument(program.createArgument('<topic>', 'what to list').choices(TOPICS))
  .option('--limit <n>', 'most rows', whole, 100)
  .addOption(address())
  .addOption(json())
  .action(async (topic: Topic, options: Common & { limit: number }) =>
    (await import('./list.ts')).list(topic, options.limit, options.address, options.json === true),
  )

program
  .command('timeline')
  .description('write finished tasks as a Chrome trace')
  .option('-o, --output <file>', 'file to write, "-" for stdout (default: timeline-<cluster>.json)')
  .addOption(address())
  .addOption(json())
  .action(async (options: Common & { output?: string }) => (await import('./timeline.ts')).timeline(options.output, options.address, options.json === true))

program
  .command('run')
  .description('run a program against the head that runs, or with a cluster of its own')
  .argument('<file>', 'the program')
  .argument('[args...]', 'its arguments')
  .addOption(address())
  .passThroughOptions()
  .allowUnknownOption()
  .action(async (file: string, args: string[], options: Common) => {
    exitStatus = await (await import('./run.ts')).run(file, args, options.address)
  })

try {
  await program.parseAsync()
} catch (error) {
  if (error instanceof CommanderError) {
    exitStatus = error.exitCode === 0 ? EXIT.ok : EXIT.usage
  } else {
    exitStatus = error instanceof CommandError ? error.status : EXIT.failure
    const known = error instanceof CommandError || BeamlineError.is(error)
    process.stderr.write(`${pico.red('error:')} ${known ? (error as Error).message : String((error as Error).stack)}\n`)
  }
}
process.exitCode = exitStatus
