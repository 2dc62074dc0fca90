/**
 * Which files of a code root travel to other machines: all but what .gitignore files name, `.git` and `node_modules`.
 *
 * Works where git is not installed and where the root is no repository. Symbolic links travel as links when they stay inside the root; one to a
 * file elsewhere travels as that file, one to a folder elsewhere not at all. In order of paths, so that equal trees give equal lists.
 */
import { lstatSync, readdirSync, readFileSync, readlinkSync, realpathSync, statSync } from 'node:fs'
import { dirname, join, resolve, sep } from 'node:path'
import ignore, { type Ignore } from 'ignore'

export interface CodeFile {
  /** From the root, with `/`. */
  readonly path: string
  readonly bytes: number
  /** Where a link leads, as it is written; undefined for files. */
  readonly link: string | undefined
}

const NEVER = new Set(['.git', 'node_modules'])

interface Rules {
  readonly folder: string
  readonly rules: Ignore
}

const LOOSE_CODE = /\.([cm]?[jt]sx?|json|wasm|node)$/

/** @param isLoose - only code directly in the root */
export function codeFiles(root: string, isLoose: boolean = false): CodeFile[] {
  const files: CodeFile[] = []
  const top = realpathSync(root)
  const visit = (folder: string, above: readonly Rules[]): void => {
    const own = rulesOf(top, folder)
    const rules = own ? [...above, own] : above
    for (const entry of readdirSync(join(top, folder), { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
      const path = folder === '' ? entry.name : `${folder}/${entry.name}`
      if (NEVER.has(entry.name) || isIgnored(rules, path, entry.isDirectory())) continue
      if (isLoose && !(entry.isFile() && LOOSE_CODE.test(entry.name))) continue
      if (entry.isDirectory()) visit(path, rules)
      else if (entry.isFile()) files.push({ path, bytes: lstatSync(join(top, path)).size, link: undefined })
      else if (entry.isSymbolicLink()) addLink(top, path, files)
    }
  }
  visit('', [])
  return files
}

function rulesOf(top: string, folder: string): Rules | undefined {
  let text: string
  try {
    text = readFileSync(join(top, folder, '.gitignore'), 'utf8')
  } catch {
    return undefined
  }
  return { folder, rules: ignore().add(text) }
}

/** As git decides: the deepest .gitignore that says anything about a path counts. What is in an ignored folder is not looked at. */
function isIgnored(rules: readonly Rules[], path: string, isFolder: boolean): boolean {
  for (const { folder, rules: own } of rules.toReversed()) {
    const below = folder === '' ? path : path.slice(folder.length + 1)
    const { ignored, unignored } = own.test(isFolder ? `${below}/` : below)
    if (ignored || unignored) return ignored
  }
  return false
}

function addLink(top: string, path: string, files: CodeFile[]): void {
  const full = join(top, path)
  const link = readlinkSync(full)
  const target = resolve(dirname(full), link)
  if (!link.startsWith('/') && target.startsWith(top + sep)) return void files.push({ path, bytes: 0, link })
  try {
    const stats = statSync(full)
    if (stats.isFile()) files.push({ path, bytes: stats.size, link: undefined })
  } catch {
    // It leads nowhere.
  }
}
