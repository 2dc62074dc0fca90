/**
 * Short commands of the system, such as `ip` and `nft`.
 */
import { spawn } from 'node:child_process'

export interface CommandOutput {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/** Runs a command to its end; `code` is 127 when there is no such program. */
export async function output(argv: readonly string[], input = ''): Promise<CommandOutput> {
  const [command = '', ...args] = argv
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'] })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
  child.stdin.on('error', () => undefined)
  child.stdin.end(input)
  return new Promise((resolve) => {
    child.once('error', (error) => resolve({ code: 127, stdout, stderr: error.message }))
    child.once('close', (code) => resolve({ code: code ?? 1, stdout, stderr }))
  })
}

/**
 * Its stdout.
 *
 * @throws Error with the command, its status and its stderr
 */
export async function run(argv: readonly string[], input = ''): Promise<string> {
  const { code, stdout, stderr } = await output(argv, input)
  if (code !== 0) throw new Error(`\`${argv.join(' ')}\` ended with status ${code}: ${stderr.trim()}${input === '' ? '' : `\non the input\n${input}`}`)
  return stdout
}
