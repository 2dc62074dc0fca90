#!/usr/bin/env node
/**
 * The command line `beamline`. Exit status: 0 done, 1 it failed, 2 the command line is wrong, 3 there is no cluster; `run` ends with the status
 * of its program.
 */
import { mkdirSync, readFileSync } from 'node:fs'
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { enableCompileCache } from 'node:module'
import { join } from 'node:path'
import pico from 'picocolors'
import { BeamlineError } from '../errors.ts'
import type { DaemonOptions } from '../daemon/options.ts'
import { sessionsRoot } from '../daemon/session.ts'
import { CommandError, EXIT } from './exit.ts'
import { TOPICS, type Topic } from './topics.ts'

// Commands load what they need when they run: help and mistakes answer at once, and the rest comes from the cache after the first time.
try {
  mkdirSync(sessionsRoot(), { recursive: true, mode: 0o700 })
  enableCompileCache(join(sessionsRoot(), 'compile-cache'))
} catch {
  // A temporary folder that cannot be used: the commands that need it say so.
}

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

function version(): string {
  return (JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }).version
}

let exitStatus: number = EXIT.ok

const program = new Command('beamline')
  .description('Start, stop and look at Beamline clusters.')
  .version(version())
  .exitOverride()
  .enablePositionalOptions()
  .showHelpAfterError('(beamline --help shows all commands)')
  .addHelpText('after', '\nExit status: 0 done, 1 it failed, 2 the command line is wrong, 3 there is no cluster. `run` ends with the status of its program.')

const address = (): Option => new Option('--address <address>', '"auto", or unix:/path/node.sock').env('BEAMLINE_ADDRESS')
const json = (): Option => new Option('--json', 'print JSON')

program
  .command('start')
  .description('start a head on this machine that stays until `beamline stop`')
  .requiredOption('--head', 'this node is the head of a new cluster')
  .option('--cpus <n>', 'cpus to lend (default: those of this machine)', positive)
  .option('--gpus <n>', 'gpus to lend (default: those of this machine)', positive)
  .option('--memory-bytes <n>', 'memory to lend (default: 0.7 of the machine)', whole)
  .option('--resources <list>', 'custom resources, as name=amount,name=amount', resources)
  .option('--store-bytes <n>', 'capacity of the object store (default: 0.3 of the memory)', whole)
  .option('--prestart <n>', 'workers kept warm (default: as many as cpus)', whole)
  .option('--workers-max <n>', 'most workers that are actors (default: 1024)', whole)
  .option('--idle-timeout-ms <n>', 'idle workers beyond those end after this (default: 10000)', whole)
  .addOption(json())
  .action(async ({ json: asJson, head: _head, ...options }: DaemonOptions & { head: true; json?: boolean }) =>
    (await import('./start.ts')).start(options, asJson === true),
  )

program
  .command('stop')
  .description('end a cluster and all that it started')
  .addOption(address())
  .addOption(json())
  .action(async (options: Common) => (await import('./stop.ts')).stop(options.address, options.json === true))

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
