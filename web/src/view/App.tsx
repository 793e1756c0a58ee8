/** The whole page. */
export function App() {
  return <main>cullama</main>;
}
