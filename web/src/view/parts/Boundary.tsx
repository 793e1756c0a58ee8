/** Holds an error in one part of the page: a sentence in its place, and the rest goes on. */

import { Component, type ReactNode } from "react";

import { Icon } from "../../icons";
import { useWords } from "../../words";

interface Props {
  /** Names what is shown: when it changes, the part is drawn again. */
  of: string;
  children: ReactNode;
}

interface State {
  of: string;
  error: Error | null;
}

/** React takes whole trees away where drawing fails, unless a component like this one is there. */
export class Boundary extends Component<Props, State> {
  override state: State = { of: this.props.of, error: null };

  static getDerivedStateFromError(error: unknown): Partial<State> {
    return { error: error instanceof Error ? error : new Error(String(error)) };
  }

  static getDerivedStateFromProps(props: Props, state: State): Partial<State> | null {
    return props.of === state.of ? null : { of: props.of, error: null };
  }

  override render(): ReactNode {
    const { error } = this.state;
    if (!error) return this.props.children;
    return <Broken error={error} again={() => this.setState({ error: null })} />;
  }
}

function Broken({ error, again }: { error: Error; again: () => void }) {
  const words = useWords();
  return (
    <div className="broken">
      <div className="fault" role="alert">
        <Icon name="warn" />
        <div>
          <p>{words.partBroken(error.message)}</p>
          <p>{words.partBrokenKept}</p>
        </div>
        <button type="button" className="btn line" onClick={again}>
          {words.retry}
        </button>
      </div>
    </div>
  );
}
