/**
 * One walk over acorn's tree that collects scopes, bindings, references and functions. References are resolved after the walk, so
 * hoisting needs no second one. Pure.
 */
import type { AnyNode, Class, Function as FunctionNode, Identifier, Pattern, Program } from 'acorn'
import {
  type BindingKind,
  type FunctionForm,
  type FunctionSite,
  type ImportedName,
  RESERVED,
  type Reference,
  type Scope,
  type ScriptAnalysis,
  type Special,
} from './scopes.ts'

interface VisitContext {
  readonly position?: Reference['position']
}

export class ScopeWalker {
  readonly #source: string
  readonly #isModule: boolean
  readonly #functions: FunctionSite[] = []
  readonly #references: Reference[] = []
  readonly #specials: Special[] = []
  readonly #exports = new Map<string, string>()

  constructor(source: string, isModule: boolean) {
    this.#source = source
    this.#isModule = isModule
  }

  run(program: Program): ScriptAnalysis {
    const strict = this.#isModule || hasUseStrict(program.body)
    const top = this.#scope(undefined, { strict, isFunction: true })
    this.#statements(program.body, top)
    this.#references.sort((a, b) => a.start - b.start)
    for (const reference of this.#references) {
      for (let scope: Scope | undefined = reference.scope; scope; scope = scope.parent) {
        const binding = scope.bindings.get(reference.name)
        if (!binding) continue
        reference.binding = binding
        if (reference.write) binding.reassigned = true
        break
      }
      if (reference.name === 'arguments' && !reference.binding) {
        // `arguments[0] = x` writes to a sloppy function's parameter
        if (reference.scope.thisScope && !reference.scope.strict) reference.scope.thisScope.dynamic = true
        this.#specials.push({ kind: 'arguments', start: reference.start, owner: reference.scope.thisScope, text: 'arguments' })
      }
    }
    return {
      source: this.#source,
      isModule: this.#isModule,
      top,
      functions: this.#functions,
      references: this.#references.filter((r) => r.name !== 'arguments' || r.binding),
      specials: this.#specials,
      exports: this.#exports,
    }
  }

  #scope(
    parent: Scope | undefined,
    options: { strict?: boolean; isFunction?: boolean; ownsThis?: boolean; superScope?: Scope; privateNames?: Set<string> } = {},
  ): Scope {
    const scope: { -readonly [K in keyof Scope]: Scope[K] } = {
      parent,
      bindings: new Map(),
      functionScope: parent?.functionScope as Scope,
      thisScope: parent?.thisScope,
      superScope: options.superScope ?? parent?.superScope,
      strict: options.strict ?? parent?.strict ?? false,
      privateNames: options.privateNames,
      dynamic: false,
    }
    if (options.isFunction) scope.functionScope = scope
    if (options.ownsThis) scope.thisScope = scope
    return scope
  }

  #declare(scope: Scope, name: string, kind: BindingKind, start: number, more: { imported?: ImportedName; init?: AnyNode } = {}): void {
    const earlier = scope.bindings.get(name)
    if (earlier) {
      // `var x` twice, `function f` twice, a parameter and a var of one name: one binding, more than one possible value
      earlier.reassigned = true
      return
    }
    scope.bindings.set(name, { name, kind, scope, start, reassigned: false, imported: more.imported, init: more.init })
  }

  #refer(node: Identifier, scope: Scope, write: boolean, position: Reference['position'] = 'plain'): void {
    this.#references.push({ name: node.name, start: node.start, end: node.end, scope, write, position, binding: undefined })
  }

  /** Statements of one block: lexical declarations first is not needed, names are resolved after the walk. */
  #statements(nodes: readonly AnyNode[], scope: Scope): void {
    for (const node of nodes) this.#visit(node, scope)
  }

  #visit(node: AnyNode | null | undefined, scope: Scope, context: VisitContext = {}): void {
    if (!node) return
    switch (node.type) {
      case 'Identifier':
        return this.#refer(node, scope, false, context.position)
      case 'ThisExpression':
        this.#specials.push({ kind: 'this', start: node.start, owner: scope.thisScope, text: 'this' })
        return
      case 'Super':
        this.#specials.push({ kind: 'super', start: node.start, owner: scope.superScope, text: 'super' })
        return
      case 'MetaProperty': {
        const kind = node.meta.name === 'new' ? 'new.target' : 'import.meta'
        this.#specials.push({ kind, start: node.start, owner: kind === 'new.target' ? scope.thisScope : undefined, text: kind })
        return
      }
      case 'PrivateIdentifier':
        return this.#privateName(node.name, node.start, scope)
      case 'VariableDeclaration':
        for (const declarator of node.declarations) {
          const kind = node.kind === 'var' ? 'var' : node.kind === 'let' ? 'let' : 'const'
          const target = kind === 'var' ? scope.functionScope : scope
          this.#pattern(declarator.id, scope, { kind, scope: target, init: declarator.init ?? undefined })
          this.#visit(declarator.init, scope)
        }
        return
      case 'FunctionDeclaration':
        this.#declareFunction(node, scope)
        return this.#function(node, scope, { form: 'function', start: node.start, end: node.end, isDeclaration: true })
      case 'FunctionExpression':
        return this.#function(node, scope, { form: 'function', start: node.start, end: node.end })
      case 'ArrowFunctionExpression':
        return this.#function(node, scope, { form: 'arrow', start: node.start, end: node.end })
      case 'ClassDeclaration':
        if (node.id) this.#declare(scope, node.id.name, 'class', node.id.start)
        return this.#class(node, scope, true, false)
      case 'ClassExpression':
        return this.#class(node, scope, false, false)
      case 'ObjectExpression':
        for (const property of node.properties) {
          if (property.type === 'SpreadElement') this.#visit(property.argument, scope)
          else if (property.method || property.kind !== 'init')
            this.#member(property, property.value as FunctionNode, scope, this.#scope(scope, { superScope: scope }))
          else {
            if (property.computed) this.#visit(property.key, scope)
            this.#visit(property.value, scope, property.shorthand ? { position: 'shorthand' } : {})
          }
        }
        return
      case 'MemberExpression':
        this.#visit(node.object, scope)
        if (node.computed || node.property.type === 'PrivateIdentifier') this.#visit(node.property, scope)
        return
      case 'CallExpression':
        if (node.callee.type === 'Identifier' && node.callee.name === 'eval') this.#directEval(node.callee, scope)
        this.#visit(node.callee, scope, { position: 'call' })
        for (const argument of node.arguments) this.#visit(argument, scope)
        return
      case 'TaggedTemplateExpression':
        this.#visit(node.tag, scope, { position: 'call' })
        this.#visit(node.quasi, scope)
        return
      case 'UnaryExpression':
        return this.#visit(node.argument, scope, node.operator === 'typeof' ? { position: 'typeof' } : {})
      case 'AssignmentExpression':
        if (node.left.type === 'Identifier' && node.operator !== '=') this.#refer(node.left, scope, false)
        this.#pattern(node.left, scope)
        return this.#visit(node.right, scope)
      case 'UpdateExpression':
        if (node.argument.type === 'Identifier') return this.#refer(node.argument, scope, true)
        return this.#visit(node.argument, scope)
      case 'BlockStatement': {
        const inner = this.#scope(scope)
        return this.#statements(node.body, inner)
      }
      case 'ForStatement': {
        const inner = this.#scope(scope)
        this.#visit(node.init, inner)
        this.#visit(node.test, inner)
        this.#visit(node.update, inner)
        return this.#visit(node.body, inner)
      }
      case 'ForInStatement':
      case 'ForOfStatement': {
        const inner = this.#scope(scope)
        if (node.left.type === 'VariableDeclaration') this.#visit(node.left, inner)
        else this.#pattern(node.left, inner)
        // a `var` of the head gets a value per round
        if (node.left.type === 'VariableDeclaration' && node.left.kind === 'var') for (const d of node.left.declarations) this.#pattern(d.id, inner)
        this.#visit(node.right, inner)
        return this.#visit(node.body, inner)
      }
      case 'SwitchStatement': {
        this.#visit(node.discriminant, scope)
        const inner = this.#scope(scope)
        for (const branch of node.cases) {
          this.#visit(branch.test, inner)
          this.#statements(branch.consequent, inner)
        }
        return
      }
      case 'CatchClause': {
        const inner = this.#scope(scope)
        if (node.param) this.#pattern(node.param, inner, { kind: 'catch', scope: inner })
        return this.#visit(node.body, inner)
      }
      case 'WithStatement':
        this.#specials.push({ kind: 'with', start: node.start, owner: undefined, text: 'with' })
        scope.functionScope.dynamic = true
        this.#visit(node.object, scope)
        return this.#visit(node.body, scope)
      case 'LabeledStatement':
        return this.#visit(node.body, scope)
      case 'BreakStatement':
      case 'ContinueStatement':
      case 'Literal':
      case 'TemplateElement':
      case 'DebuggerStatement':
      case 'EmptyStatement':
        return
      case 'ImportDeclaration': {
        const attributes: Record<string, string> = {}
        for (const a of node.attributes ?? []) attributes[a.key.type === 'Identifier' ? a.key.name : String(a.key.value)] = String(a.value.value)
        for (const s of node.specifiers) {
          const name = s.type === 'ImportDefaultSpecifier' ? 'default' : s.type === 'ImportNamespaceSpecifier' ? '*' : nameOf(s.imported)
          this.#declare(scope, s.local.name, 'import', s.local.start, { imported: { specifier: String(node.source.value), name, attributes } })
        }
        return
      }
      case 'ExportNamedDeclaration':
        this.#visit(node.declaration, scope)
        if (node.source) return
        for (const s of node.specifiers) this.#exports.set(nameOf(s.exported), nameOf(s.local))
        if (node.declaration?.type === 'VariableDeclaration') {
          for (const d of node.declaration.declarations) for (const name of boundNames(d.id)) this.#exports.set(name, name)
        } else if (node.declaration) this.#exports.set(node.declaration.id.name, node.declaration.id.name)
        return
      case 'ExportDefaultDeclaration': {
        const d = node.declaration
        if (d.type === 'FunctionDeclaration') {
          if (d.id) {
            this.#declareFunction(d as FunctionNode, scope)
            this.#exports.set('default', d.id.name)
          }
          return this.#function(d as FunctionNode, scope, { form: 'function', start: d.start, end: d.end, isDeclaration: true, isDefaultExport: true })
        }
        if (d.type === 'ClassDeclaration') {
          if (d.id) {
            this.#declare(scope, d.id.name, 'class', d.id.start)
            this.#exports.set('default', d.id.name)
          }
          return this.#class(d as Class, scope, true, true)
        }
        if (d.type === 'ClassExpression') return this.#class(d, scope, false, true)
        if (d.type === 'ArrowFunctionExpression') return this.#function(d, scope, { form: 'arrow', start: d.start, end: d.end, isDefaultExport: true })
        if (d.type === 'FunctionExpression') return this.#function(d, scope, { form: 'function', start: d.start, end: d.end, isDefaultExport: true })
        return this.#visit(d, scope)
      }
      case 'ExportAllDeclaration':
        return
      default:
        this.#children(node, scope)
    }
  }

  /** Every other node means nothing for scopes: its child nodes in order. */
  #children(node: AnyNode, scope: Scope): void {
    for (const value of Object.values(node)) {
      if (Array.isArray(value)) for (const item of value) isNode(item) && this.#visit(item, scope)
      else if (isNode(value)) this.#visit(value, scope)
    }
  }

  #privateName(name: string, start: number, scope: Scope): void {
    let owner: Scope | undefined = scope
    while (owner && !owner.privateNames?.has(name)) owner = owner.parent
    this.#specials.push({ kind: 'private name', start, owner, text: `#${name}` })
  }

  #directEval(callee: Identifier, scope: Scope): void {
    this.#specials.push({ kind: 'eval', start: callee.start, owner: undefined, text: 'eval' })
    for (let at: Scope | undefined = scope; at; at = at.parent) at.dynamic = true
  }

  #declareFunction(node: FunctionNode, scope: Scope): void {
    if (!node.id) return
    this.#declare(scope, node.id.name, 'function', node.id.start)
    // sloppy code also sees a function of a block in the whole function
    if (!scope.strict && scope !== scope.functionScope) {
      this.#declare(scope.functionScope, node.id.name, 'var', node.id.start)
      const outer = scope.functionScope.bindings.get(node.id.name)
      if (outer) outer.reassigned = true
    }
  }

  #function(
    node: FunctionNode,
    outer: Scope,
    site: { form: FunctionForm; start: number; end: number; isDeclaration?: boolean; isDefaultExport?: boolean; key?: FunctionSite['key']; written?: Scope },
  ): void {
    const body = node.body.type === 'BlockStatement' ? node.body : undefined
    const strict = outer.strict || (body !== undefined && hasUseStrict(body.body))
    let scope = outer
    if (node.id && !site.isDeclaration) {
      scope = this.#scope(scope, { strict })
      this.#declare(scope, node.id.name, 'self', node.id.start)
    }
    const parameters = this.#scope(scope, { strict, isFunction: true, ownsThis: site.form !== 'arrow' })
    this.#functions.push({
      form: site.form,
      node,
      start: site.start,
      end: site.end,
      bodyStart: site.key ? node.start : site.start,
      outerScope: site.written ?? outer,
      strict,
      isDeclaration: site.isDeclaration ?? false,
      key: site.key,
      isDefaultExport: site.isDefaultExport ?? false,
    })
    for (const parameter of node.params) this.#pattern(parameter, parameters, { kind: 'param', scope: parameters })
    if (isSetter(node)) return
    // a `var` of the body is not seen by the parameters' defaults
    if (body) this.#statements(body.body, this.#scope(parameters, { isFunction: true }))
    else this.#visit(node.body, parameters)
  }

  #member(
    member: { start: number; end: number; key: AnyNode; computed: boolean; kind: string; static?: boolean },
    value: FunctionNode,
    outer: Scope,
    home: Scope,
  ): void {
    if (member.computed) this.#visit(member.key, outer)
    const form = member.kind === 'get' ? 'getter' : member.kind === 'set' ? 'setter' : 'method'
    const start = member.static ? afterStatic(this.#source, member.start) : member.start
    const key = {
      start: member.key.start,
      end: member.computed ? this.#source.indexOf(']', member.key.end) + 1 : member.key.end,
      name: member.computed ? '' : nameOf(member.key),
      computed: member.computed,
      isPrivate: member.key.type === 'PrivateIdentifier',
    }
    this.#function(value, home, { form, start, end: member.end, key, written: outer })
  }

  #class(node: Class, outer: Scope, isDeclaration: boolean, isDefaultExport: boolean): void {
    const privateNames = new Set<string>()
    for (const member of node.body.body) if ('key' in member && member.key?.type === 'PrivateIdentifier') privateNames.add(member.key.name)
    const scope = this.#scope(outer, { strict: true, privateNames })
    if (node.id) this.#declare(scope, node.id.name, 'self', node.id.start)
    const home = this.#scope(scope, { superScope: scope })
    this.#functions.push({
      form: 'class',
      node,
      start: node.start,
      end: node.end,
      bodyStart: node.start,
      outerScope: outer,
      strict: true,
      isDeclaration,
      key: undefined,
      isDefaultExport,
    })
    this.#visit(node.superClass, scope)
    for (const member of node.body.body) {
      if (member.type === 'MethodDefinition') {
        if (member.kind === 'constructor') this.#constructorMethod(member.value, home)
        else this.#member(member, member.value, scope, home)
      } else if (member.type === 'PropertyDefinition') {
        if (member.computed) this.#visit(member.key, scope)
        this.#visit(member.value, this.#scope(home, { isFunction: true, ownsThis: true }))
      } else this.#statements(member.body, this.#scope(home, { isFunction: true, ownsThis: true }))
    }
  }

  /** A class's constructor is the class: it has no text of its own. */
  #constructorMethod(node: FunctionNode, home: Scope): void {
    const scope = this.#scope(home, { isFunction: true, ownsThis: true })
    for (const parameter of node.params) this.#pattern(parameter, scope, { kind: 'param', scope })
    if (node.body.type === 'BlockStatement') this.#statements(node.body.body, this.#scope(scope, { isFunction: true }))
  }

  /** A binding pattern when `declare` is given, an assignment target otherwise. */
  #pattern(node: Pattern | AnyNode, scope: Scope, declare?: { kind: BindingKind; scope: Scope; init?: AnyNode | undefined }): void {
    switch (node.type) {
      case 'Identifier':
        if (declare) {
          this.#declare(declare.scope, node.name, declare.kind, node.start, declare.init ? { init: declare.init } : {})
          // an initialised `var` writes to its name again wherever the name exists already
          if (declare.kind === 'var' && declare.scope.bindings.get(node.name)?.kind !== 'var' && declare.init) this.#refer(node, scope, true)
        } else this.#refer(node, scope, true)
        return
      case 'ObjectPattern':
        for (const property of node.properties) {
          if (property.type === 'RestElement') this.#pattern(property.argument, scope, pick(declare))
          else {
            if (property.computed) this.#visit(property.key, scope)
            this.#pattern(property.value, scope, pick(declare))
          }
        }
        return
      case 'ArrayPattern':
        for (const element of node.elements) if (element) this.#pattern(element, scope, pick(declare))
        return
      case 'AssignmentPattern':
        this.#pattern(node.left, scope, pick(declare))
        return this.#visit(node.right, scope)
      case 'RestElement':
        return this.#pattern(node.argument, scope, pick(declare))
      default:
        this.#visit(node, scope)
    }
  }
}

function pick(declare: { kind: BindingKind; scope: Scope } | undefined): { kind: BindingKind; scope: Scope } | undefined {
  return declare && { kind: declare.kind, scope: declare.scope }
}

function hasUseStrict(body: readonly AnyNode[]): boolean {
  for (const statement of body) {
    if (statement.type !== 'ExpressionStatement' || !('directive' in statement) || statement.directive === undefined) return false
    if (statement.directive === 'use strict') return true
  }
  return false
}

function boundNames(pattern: Pattern): string[] {
  switch (pattern.type) {
    case 'Identifier':
      return [pattern.name]
    case 'ObjectPattern':
      return pattern.properties.flatMap((p) => boundNames(p.type === 'RestElement' ? p.argument : p.value))
    case 'ArrayPattern':
      return pattern.elements.flatMap((e) => (e ? boundNames(e) : []))
    case 'AssignmentPattern':
      return boundNames(pattern.left)
    case 'RestElement':
      return boundNames(pattern.argument)
    default:
      return []
  }
}

function nameOf(node: AnyNode): string {
  if (node.type === 'Identifier' || node.type === 'PrivateIdentifier') return node.name
  return node.type === 'Literal' ? String(node.value) : ''
}

/** The function that fills a shipped function's captured names, once, in a worker: no assignment that a program makes. */
function isSetter(node: FunctionNode): boolean {
  const [first] = node.params
  return first?.type === 'Identifier' && first.name.startsWith(`${RESERVED}Values`)
}

/** V8's text of a static member begins after the word `static`. */
function afterStatic(source: string, start: number): number {
  const rest = /^static(?:\s|\/\*[^]*?\*\/|\/\/[^\n]*\n)*/.exec(source.slice(start, start + 1_000))
  return start + (rest?.[0].length ?? 0)
}

function isNode(value: unknown): value is AnyNode {
  return typeof value === 'object' && value !== null && typeof (value as { type?: unknown }).type === 'string' && 'start' in value
}
